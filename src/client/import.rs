//! Suppressions from a file to the lines that the API takes: JSON lines as they are, CSV record by record.

use crate::json::Json;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// Lines of JSON, from either kind of file. CSV has a header with `value`, `type`, `code`, `extended`, `description`.
pub fn lines(source: impl Read + 'static) -> Result<Box<dyn Read>, String> {
    let mut source = BufReader::new(source);
    let start = source.fill_buf().map_err(|error| error.to_string())?;
    if start.iter().find(|octet| !octet.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(Box::new(source));
    }
    let mut records = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source);
    let names = records.headers().map_err(|error| error.to_string())?.iter().map(str::to_lowercase).collect::<Vec<_>>();
    if !names.iter().any(|name| name == "value") {
        return Err("is neither JSON lines nor CSV with a header that names `value`".to_owned());
    }
    Ok(Box::new(FromCsv { records, names, ready: Vec::new(), used: 0 }))
}

/// What an open file is read through.
pub fn watched(file: File, bar: &indicatif::ProgressBar) -> impl Read + 'static {
    bar.wrap_read(file)
}

struct FromCsv<R> {
    records: csv::Reader<R>,
    names: Vec<String>,
    ready: Vec<u8>,
    used: usize,
}

impl<R: Read> Read for FromCsv<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.used == self.ready.len() {
            let mut record = csv::StringRecord::new();
            if !self.records.read_record(&mut record).map_err(std::io::Error::other)? {
                return Ok(0);
            }
            let set = self.names.iter().zip(&record).filter(|(_, value)| !value.is_empty());
            let entry = Json::object(set.map(|(name, value)| (name.as_str(), Some(value.into()))));
            self.ready = entry.to_text().into_bytes();
            self.ready.push(b'\n');
            self.used = 0;
        }
        let count = buffer.len().min(self.ready.len() - self.used);
        buffer[..count].copy_from_slice(&self.ready[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::lines;
    use std::io::{Cursor, Read};

    #[test]
    fn both_kinds_of_file() {
        let read = |text: &'static str| -> Result<String, String> {
            let mut out = String::new();
            lines(Cursor::new(text))?.read_to_string(&mut out).map_err(|error| error.to_string())?;
            Ok(out)
        };
        let json = "{\"value\":\"a.test\"}\n";
        assert_eq!(read(json).unwrap(), json);
        assert_eq!(
            read("Value,type,code,description\na.test,domain,550,\"no, never\"\nb.test,domain,551,\n").unwrap(),
            "{\"value\":\"a.test\",\"type\":\"domain\",\"code\":\"550\",\"description\":\"no, never\"}\n\
             {\"value\":\"b.test\",\"type\":\"domain\",\"code\":\"551\"}\n"
        );
        assert!(read("a.test\nb.test\n").is_err());
        assert!(read("value,code\na.test\n").is_err(), "a record with a field missing");
    }
}
