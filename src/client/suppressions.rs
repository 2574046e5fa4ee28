//! Files of suppressions, of any length: up as JSON lines, made of CSV on the way if need be, and down. Nothing is
//! held as a whole.

use super::arguments::{Format, Verdict};
use super::http::{Failure, Server};
use super::print;
use super::request::{Method, Request, SUPPRESSIONS, type_of};
use crate::report;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Columns of CSV, in this order when the first line does not name them.
const COLUMNS: [&str; 5] = ["value", "type", "code", "extended", "description"];

/// Octets of one line of the server; a longer one is no entry.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// `suppress import FILE`.
pub fn import(
    server: &Server,
    file: &Path,
    format: Option<Format>,
    verdict: &Verdict,
    json: bool,
) -> Result<(), Failure> {
    let wrong = |error: io::Error| Failure::Refused(format!("{} cannot be read: {error}", file.display()));
    let (source, bar): (Box<dyn Read>, _) = if file == Path::new("-") {
        (Box::new(io::stdin()), progress(None))
    } else {
        let opened = File::open(file).map_err(wrong)?;
        let length = opened.metadata().map_err(wrong)?.len();
        (Box::new(opened), progress(Some(length)))
    };
    let mut reader = BufReader::new(bar.wrap_read(source));
    let first = reader.fill_buf().map_err(wrong)?.iter().copied().find(|octet| !octet.is_ascii_whitespace());
    let format =
        format.or_else(|| named(file)).unwrap_or(if first == Some(b'{') { Format::Jsonl } else { Format::Csv });
    let request = Request::new(Method::Post, SUPPRESSIONS);
    let (answer, fault) = match format {
        Format::Jsonl => upload(server, &request, reader),
        Format::Csv => upload(server, &request, JsonOfCsv::new(reader, verdict)),
    };
    bar.finish_and_clear();
    if let Some(fault) = fault {
        let why =
            format!("{}: {fault}; what stands before it may be in: correct it and import all again", file.display());
        return Err(Failure::Refused(why));
    }
    judge(&answer?, format, json)
}

/// The server's answer, and why the source could not be read to its end, which is then no fault of the server.
fn upload(server: &Server, request: &Request, source: impl Read) -> (Result<Vec<u8>, Failure>, Option<String>) {
    let mut source = Watched { source, fault: None };
    let answer = server.upload(request, &mut source);
    (answer, source.fault)
}

/// A source that remembers why it could not be read.
struct Watched<R> {
    source: R,
    fault: Option<String>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.fault = Some(error.to_string());
        }
        read
    }
}

/// What the server made of it. Some entries refused is a refusal, although the others are in.
fn judge(answer: &[u8], format: Format, json: bool) -> Result<(), Failure> {
    let read: Value = serde_json::from_slice(answer)
        .map_err(|error| Failure::Refused(format!("the answer makes no sense: {error}")))?;
    let count = |name: &str| read.get(name).and_then(Value::as_u64).unwrap_or(0);
    if json {
        print(answer, true)?;
    } else {
        print(format!("{} created, {} updated\n", count("created"), count("updated")).as_bytes(), false)?;
    }
    let unit = if format == Format::Csv { "entry" } else { "line" };
    for error in read.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let text = error.get("error").and_then(Value::as_str).unwrap_or_default();
        report::error(&format!("{unit} {}: {text}", error.get("line").and_then(Value::as_u64).unwrap_or(0)));
    }
    match count("error_count") {
        0 => Ok(()),
        errors => Err(Failure::Refused(format!("{errors} refused; the others are in"))),
    }
}

/// `suppress export`.
pub fn export(server: &Server, file: Option<&Path>, format: Option<Format>) -> Result<(), Failure> {
    let format = format.or_else(|| file.and_then(named)).unwrap_or(Format::Jsonl);
    let lines = server.download(&Request::new(Method::Get, SUPPRESSIONS))?;
    let Some(path) = file else {
        let bar = ProgressBar::hidden();
        return copy(lines, &mut io::stdout().lock(), format, &bar).map(drop);
    };
    let opened = File::create(path)
        .map_err(|error| Failure::Refused(format!("{} cannot be written: {error}", path.display())))?;
    let bar = progress(None);
    let copied = copy(lines, &mut BufWriter::new(opened), format, &bar);
    bar.finish_and_clear();
    print(format!("{} written to {}\n", copied?, path.display()).as_bytes(), false)
}

/// Entries that were written.
fn copy(lines: impl Read, out: &mut dyn Write, format: Format, bar: &ProgressBar) -> Result<u64, Failure> {
    let unwritten = |error: io::Error| Failure::Refused(format!("it cannot be written: {error}"));
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    let mut count = 0;
    if format == Format::Csv {
        out.write_all(csv_line(&COLUMNS).as_bytes()).map_err(unwritten)?;
    }
    loop {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| Failure::Unreachable(format!("the list was cut off after {count} entries: {error}")))?;
        if line.is_empty() {
            break;
        }
        let entry: Value = serde_json::from_slice(&line)
            .map_err(|error| Failure::Refused(format!("line {} of the answer is no entry: {error}", count + 1)))?;
        match format {
            Format::Jsonl => out.write_all(&line),
            Format::Csv => out.write_all(csv_line(&COLUMNS.map(|name| cell(entry.get(name)))).as_bytes()),
        }
        .map_err(unwritten)?;
        bar.inc(line.len() as u64);
        count += 1;
    }
    out.flush().map_err(unwritten)?;
    Ok(count)
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn csv_line<T: AsRef<[u8]>>(cells: &[T]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer.write_record(cells);
    debug_assert!(written.is_ok(), "a vector takes any record");
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// The format that a file's name says.
fn named(file: &Path) -> Option<Format> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        _ => None,
    }
}

/// On stderr, and only when that is a terminal.
fn progress(octets: Option<u64>) -> ProgressBar {
    let (bar, template) = match octets {
        Some(octets) => (ProgressBar::new(octets), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// CSV that reads as JSON lines.
struct JsonOfCsv<'a, R: Read> {
    records: csv::Reader<R>,
    record: csv::StringRecord,
    /// What each column is; `None` of one that is nothing of ours.
    columns: Option<Vec<Option<&'static str>>>,
    verdict: &'a Verdict,
    line: Vec<u8>,
    given: usize,
}

impl<'a, R: Read> JsonOfCsv<'a, R> {
    fn new(source: R, verdict: &'a Verdict) -> Self {
        let records =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(source);
        Self { records, record: csv::StringRecord::new(), columns: None, verdict, line: Vec::new(), given: 0 }
    }

    /// Makes the next line; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.given = 0;
        if !self.records.read_record(&mut self.record).map_err(io::Error::other)? {
            return Ok(false);
        }
        if self.columns.is_none() {
            let name = |cell: &str| {
                COLUMNS.into_iter().find(|name| cell.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name))
            };
            let named: Vec<_> = self.record.iter().map(name).collect();
            let is_head = named.contains(&Some("value"));
            let first = self.record.get(0).unwrap_or_default();
            if !is_head && !first.contains(['@', '.', '[']) {
                // The head of another list: its first word would be suppressed as a domain.
                let why = format!("line 1: {first:?} is no address or domain; a first line of names has `value` in it");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            self.columns = Some(if is_head { named } else { COLUMNS.map(Some).to_vec() });
            if is_head && !self.records.read_record(&mut self.record).map_err(io::Error::other)? {
                return Ok(false);
            }
        }
        let columns = self.columns.as_deref().unwrap_or_default();
        if let Some(cell) = self.record.iter().skip(columns.len()).find(|cell| !cell.is_empty()) {
            let line = self.record.position().map_or(0, csv::Position::line);
            let why = format!("line {line}: {cell:?} stands in no column: there are {}", columns.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut entry = self.verdict.members();
        let cells = columns.iter().zip(&self.record).filter_map(|(name, cell)| name.map(|name| (name, cell)));
        for (name, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
            // A field that came with a byte order mark is still that field.
            entry.insert(name.to_owned(), cell.trim_start_matches('\u{feff}').into());
        }
        let value = entry.get("value").and_then(Value::as_str).unwrap_or_default();
        let kind = type_of(value);
        entry.entry("type").or_insert_with(|| kind.into());
        self.line = Value::Object(entry).to_string().into_bytes();
        self.line.push(b'\n');
        Ok(true)
    }
}

impl<R: Read> Read for JsonOfCsv<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.line.len() && !self.advance()? {
            return Ok(0);
        }
        let rest = &self.line[self.given..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, JsonOfCsv, Method, Request, SUPPRESSIONS, Server, Verdict, Watched, copy, named, upload};
    use indicatif::ProgressBar;
    use std::io::Read;
    use std::path::Path;

    #[test]
    fn csv_becomes_json_lines() {
        let verdict = Verdict { code: 550, extended: Some("5.1.1".into()), description: None };
        let one = r#"{"code":550,"extended":"5.1.1","type":"address","value":"a@b.example"}"#;
        let other = r#"{"code":"551","extended":"5.1.1","type":"domain","value":"b.example"}"#;
        let words =
            r#"{"code":550,"description":"a, \"b\"","extended":"5.1.1","type":"address","value":"a@b.example"}"#;
        for (csv, expected) in [
            ("", vec![]),
            ("value\n", vec![]),
            ("a@b.example\nb.example,,551\n", vec![one, other]),
            ("\u{feff}value,type\r\na@b.example,address\r\n\r\n", vec![one]),
            ("Code,Name,Value\n551,x,b.example\n,y,a@b.example", vec![other, one]),
            ("description,value\n\"a, \"\"b\"\"\",a@b.example\n", vec![words]),
            ("b.example,,551\nlocalhost,,551\n", vec![other, &other.replace("b.example", "localhost")]),
        ] {
            let mut text = String::new();
            JsonOfCsv::new(csv.as_bytes(), &verdict).read_to_string(&mut text).unwrap();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{csv:?}");
        }
    }

    #[test]
    fn a_cell_without_a_column_is_refused_with_its_line() {
        let verdict = Verdict { code: 550, extended: None, description: None };
        for (csv, line) in [("value,code\na@b.example,550\nb.example,551,5.1.1\n", 3), ("b.example,,551,,x,y\n", 1)] {
            let read = JsonOfCsv::new(csv.as_bytes(), &verdict).read_to_string(&mut String::new());
            let why = read.unwrap_err().to_string();
            assert!(why.starts_with(&format!("line {line}: ")), "{why}");
        }
        for head in ["email\na@b.example\n", "E-mail,Code\na@b.example,550\n", "\u{feff}address\n"] {
            let read = JsonOfCsv::new(head.as_bytes(), &verdict).read_to_string(&mut String::new());
            assert!(read.unwrap_err().to_string().contains("is no address or domain"), "{head}");
        }
        let spare = "value,code\nb.example,551,,\n";
        assert!(
            JsonOfCsv::new(spare.as_bytes(), &verdict).read_to_string(&mut String::new()).is_ok(),
            "nothing is lost"
        );
    }

    #[test]
    fn a_source_that_cannot_be_read_says_why() {
        let verdict = Verdict { code: 550, extended: None, description: None };
        for (csv, fault) in [(&b"value\na@b.example\n"[..], None), (b"value\n\xfc@b.example\n", Some("invalid utf-8"))]
        {
            let mut source = Watched { source: JsonOfCsv::new(csv, &verdict), fault: None };
            assert_eq!(source.read_to_end(&mut Vec::new()).is_err(), fault.is_some());
            assert_eq!(source.fault.is_some(), fault.is_some());
            assert!(fault.is_none_or(|words| source.fault.unwrap().contains(words)));
        }
    }

    #[test]
    fn lines_become_csv() {
        let lines = "{\"value\":\"a@b.example\",\"type\":\"address\",\"code\":550,\"description\":\"x, y\"}\n";
        for (format, expected) in [
            (Format::Jsonl, lines),
            (Format::Csv, "value,type,code,extended,description\na@b.example,address,550,,\"x, y\"\n"),
        ] {
            let mut out = Vec::new();
            assert_eq!(copy(lines.as_bytes(), &mut out, format, &ProgressBar::hidden()).unwrap(), 1);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        assert!(copy(&b"{\"value\":"[..], &mut Vec::new(), Format::Csv, &ProgressBar::hidden()).is_err());
    }

    /// It was taken for a server that cannot be reached.
    #[test]
    fn what_cannot_be_read_is_told_as_the_files_fault() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::new(&format!("http://{}", listener.local_addr().unwrap()), None);
        let accepting = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut octets = [0; 1024];
            let _ = client.read(&mut octets).unwrap();
            std::io::Write::write_all(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            while client.read(&mut octets).is_ok_and(|count| count > 0) {}
        });
        let verdict = Verdict { code: 550, extended: None, description: None };
        let mut lines = JsonOfCsv::new(&b"value,code\na@b.example,550\nb.example,551,x\n"[..], &verdict);
        let request = Request::new(Method::Post, SUPPRESSIONS);
        let (answer, failed) = upload(&server, &request, &mut lines);
        assert!(answer.is_err() && failed.unwrap().starts_with("line 3: "));
        drop(server);
        accepting.join().unwrap();
    }

    #[test]
    fn names_say_the_format() {
        for (name, expected) in
            [("a.csv", Some(Format::Csv)), ("a.NDJSON", Some(Format::Jsonl)), ("a.txt", None), ("-", None)]
        {
            assert_eq!(named(Path::new(name)), expected, "{name}");
        }
    }
}
