//! Inflates request bodies, a bounded piece at a time: a few octets can stand for a gigabyte, so nobody ever
//! asks for all of it at once, and who collects it counts.

use super::head::Coding;
use super::limits::INFLATE_CHUNK_BYTES;
use super::parse::bad;
use super::refusal::Refusal;
use flate2::write::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::Write;

/// One body's decompression.
pub struct Inflater(Format);

enum Format {
    Gzip(Box<GzDecoder<Vec<u8>>>),
    /// And whether the end was seen.
    Zlib(Box<Decompress>, bool),
}

impl Inflater {
    /// For a coding that needs one.
    ///
    /// # Errors
    /// 415 for a coding that is not known.
    pub fn new(coding: Coding) -> Result<Option<Self>, Refusal> {
        match coding {
            Coding::Identity => Ok(None),
            Coding::Gzip => Ok(Some(Self(Format::Gzip(Box::new(GzDecoder::new(Vec::new())))))),
            Coding::Deflate => Ok(Some(Self(Format::Zlib(Box::new(Decompress::new(true)), false)))),
            Coding::Unknown => Err(Refusal {
                header: Some(("Accept-Encoding", "gzip, deflate".to_owned())),
                ..Refusal::closing(415, "only gzip and deflate are taken as Content-Encoding, and one of them alone")
            }),
        }
    }

    /// Takes some of `input`, and appends at most some 64 KiB to `out`. How many octets were taken. When
    /// nothing was taken of some input and nothing appended, there is nothing behind it.
    ///
    /// # Errors
    /// 400.
    pub fn inflate(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        match &mut self.0 {
            Format::Gzip(decoder) => {
                let taken = decoder.write(input).map_err(|_| broken())?;
                out.append(decoder.get_mut());
                if taken == 0 && out.is_empty() && !input.is_empty() {
                    return Err(bad("something follows the end of the compressed body"));
                }
                Ok(taken)
            }
            Format::Zlib(_, true) if input.is_empty() => Ok(0),
            Format::Zlib(_, true) => Err(bad("something follows the end of the compressed body")),
            Format::Zlib(decoder, ended) => {
                let before = decoder.total_in();
                out.reserve(INFLATE_CHUNK_BYTES);
                let status = decoder.decompress_vec(input, out, FlushDecompress::None).map_err(|_| broken())?;
                *ended = status == Status::StreamEnd;
                Ok(usize::try_from(decoder.total_in() - before).expect("no more than the input's length"))
            }
        }
    }

    /// What is left at the end of the input, a bounded piece at a time: call until nothing is appended.
    ///
    /// # Errors
    /// 400 when it ended too early or its checksum is wrong.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match &mut self.0 {
            Format::Gzip(decoder) => {
                // What the last piece of input inflates to may still be inside; an empty piece fetches it.
                decoder.write(&[]).map_err(|_| broken())?;
                out.append(decoder.get_mut());
                if out.is_empty() {
                    decoder.try_finish().map_err(|_| broken())?;
                    out.append(decoder.get_mut());
                }
                Ok(())
            }
            Format::Zlib(_, true) => Ok(()),
            Format::Zlib(..) => {
                let before = out.len();
                self.inflate(&[], out)?;
                let ended = matches!(self.0, Format::Zlib(_, true));
                if out.len() == before && !ended { Err(broken()) } else { Ok(()) }
            }
        }
    }
}

fn broken() -> Refusal {
    bad("the body is not compressed as its Content-Encoding says")
}

#[cfg(test)]
mod tests {
    use super::{Coding, Inflater};
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Inflates input given in pieces. What came out, and the most that came out in one step.
    fn inflate(coding: Coding, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize), String> {
        let mut inflater = Inflater::new(coding).map_err(|r| r.to_string())?.expect("a coding that compresses");
        let (mut all, mut most) = (Vec::new(), 0);
        for mut part in input.chunks(piece) {
            while !part.is_empty() {
                let mut out = Vec::new();
                let taken = inflater.inflate(part, &mut out).map_err(|r| r.to_string())?;
                part = &part[taken..];
                most = most.max(out.len());
                all.append(&mut out);
            }
        }
        loop {
            let mut out = Vec::new();
            inflater.finish(&mut out).map_err(|r| r.to_string())?;
            if out.is_empty() {
                return Ok((all, most));
            }
            most = most.max(out.len());
            all.append(&mut out);
        }
    }

    #[test]
    fn bodies_come_back_whole_in_bounded_pieces() {
        let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for text in [&b""[..], b"null", &noise, &vec![0; 3_000_000]] {
            for piece in [1, 7, 4096, usize::MAX] {
                if piece == 1 && text.len() == noise.len() {
                    continue;
                }
                for (coding, input) in [(Coding::Gzip, gzip(text)), (Coding::Deflate, zlib(text))] {
                    let (all, most) = inflate(coding, &input, piece).unwrap();
                    assert!(all == text, "{coding:?} of {} octets by {piece}", text.len());
                    assert!(most <= 64 * 1024, "{coding:?} of {} octets by {piece} gave {most}", text.len());
                }
            }
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        for (coding, whole) in [(Coding::Gzip, gzip(b"hello, hello")), (Coding::Deflate, zlib(b"hello, hello"))] {
            for cut in 0..whole.len() {
                assert!(inflate(coding, &whole[..cut], 5).is_err(), "{coding:?} cut at {cut}");
            }
            let mut wrong_sum = whole.clone();
            let at = wrong_sum.len() - if coding == Coding::Gzip { 6 } else { 1 };
            wrong_sum[at] ^= 1;
            assert!(inflate(coding, &wrong_sum, 5).is_err(), "{coding:?} with a wrong sum");
            let behind = [&whole[..], b"more"].concat();
            for piece in [1, usize::MAX] {
                assert!(inflate(coding, &behind, piece).is_err(), "{coding:?} with octets behind");
            }
            assert!(inflate(coding, b"{\"a\":1}", 100).is_err());
        }
        assert_eq!(Inflater::new(Coding::Unknown).err().unwrap().status, 415);
    }
}
