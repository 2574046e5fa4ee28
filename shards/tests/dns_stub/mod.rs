//! A DNS server's words for tests, written by hand so that the tests do not share a codec with the code: zones as
//! text in, replies as octets out.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

pub mod world;

/// Record types as on the wire.
pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const MX: u16 = 15;
pub const AAAA: u16 = 28;

/// Octets that a UDP reply may have before it is truncated.
pub const UDP_MAX: usize = 1232;

/// Records and behaviours: one per line, `NAME TTL TYPE DATA`, a `*` for any type in behaviours (`SERVFAIL`,
/// `REFUSED`, `SILENT`, `GARBAGE`, `FORMERR` to EDNS0).
#[derive(Clone, Debug, Default)]
pub struct Zone {
    pub records: Vec<Record>,
    /// Minimum of the SOA in negative replies; `None` sends none.
    pub minimum: Option<u32>,
    /// Sends a CNAME alone, without what its target has.
    pub bare_aliases: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub name: String,
    pub ttl: u32,
    pub kind: String,
    pub data: String,
}

/// The question of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    pub name: String,
    pub kind: u16,
    pub edns: bool,
}

impl Zone {
    pub fn new(text: &str) -> Self {
        let record = |line: &str| {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (name, ttl, kind) = (word(), word().parse().unwrap(), word());
            let data = words.collect::<Vec<_>>().join(" ");
            Record { name, ttl, kind, data }
        };
        let records = text.lines().filter(|line| !line.trim().is_empty()).map(record).collect();
        Self { records, minimum: Some(60), bare_aliases: false }
    }

    /// The reply to `query`; `None` for silence.
    pub fn reply(&self, query: &[u8], limit: usize) -> Option<Vec<u8>> {
        let question = question(query);
        match self.behaviour(&question) {
            Some("SILENT") => return None,
            Some("SERVFAIL") => return Some(reply(&question, 2, &[], None)),
            Some("REFUSED") => return Some(reply(&question, 5, &[], None)),
            Some("FORMERR") if question.edns => {
                return Some([&question.id.to_be_bytes()[..], &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]].concat());
            }
            Some("GARBAGE") if limit == UDP_MAX => {
                return Some([&question.id.to_be_bytes()[..], &[0x81, 0x80, 0, 9, 0, 9]].concat());
            }
            _ => {}
        }
        let (chain, exists) = self.chain(&question);
        let soa = if chain.iter().any(|record| number(&record.kind) == question.kind) { None } else { self.minimum };
        let soa = if self.bare_aliases && !chain.is_empty() { None } else { soa };
        let octets = reply(&question, if exists { 0 } else { 3 }, &chain, soa);
        if octets.len() > limit {
            let mut cut = reply(&question, 0, &[], None);
            cut[2] |= 2;
            return Some(cut);
        }
        Some(octets)
    }

    fn behaviour(&self, question: &Question) -> Option<&str> {
        let names = ["SILENT", "SERVFAIL", "REFUSED", "FORMERR", "GARBAGE"];
        let found = self.records.iter().find(|record| {
            record.name == question.name
                && names.contains(&&*record.kind)
                && (record.data.is_empty() || number(&record.data) == question.kind)
        });
        found.map(|record| &*record.kind)
    }

    /// The records from the question's name along its aliases, and whether the last name exists.
    fn chain(&self, question: &Question) -> (Vec<Record>, bool) {
        let mut name = question.name.clone();
        let mut chain = Vec::new();
        for _ in 0..20 {
            let here: Vec<&Record> = self.records.iter().filter(|record| record.name == name).collect();
            let wanted: Vec<&&Record> = here.iter().filter(|record| number(&record.kind) == question.kind).collect();
            if !wanted.is_empty() {
                chain.extend(wanted.into_iter().map(|record| (*record).clone()));
                return (chain, true);
            }
            match here.iter().find(|record| record.kind == "CNAME") {
                Some(alias) => {
                    chain.push((*alias).clone());
                    name = alias.data.clone();
                    if self.bare_aliases {
                        return (chain, true);
                    }
                }
                None => return (chain, !here.is_empty()),
            }
        }
        (chain, true)
    }
}

/// Reads a query's first question.
pub fn question(query: &[u8]) -> Question {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..at + 1 + length].to_vec()).unwrap());
        at += 1 + length;
    }
    let number = |at: usize| u16::from_be_bytes([query[at], query[at + 1]]);
    Question { id: number(0), name: labels.join("."), kind: number(at + 1), edns: number(10) == 1 }
}

/// A reply to `question` with a response code, an answer section and, when `soa`, an SOA with that minimum.
pub fn reply(question: &Question, code: u8, answers: &[Record], soa: Option<u32>) -> Vec<u8> {
    let mut octets = Vec::new();
    octets.extend(question.id.to_be_bytes());
    octets.extend([0x81, 0x80 | code]);
    for count in [1, answers.len(), usize::from(soa.is_some()), 0] {
        octets.extend(u16::try_from(count).unwrap().to_be_bytes());
    }
    put_name(&mut octets, &question.name);
    octets.extend([question.kind.to_be_bytes(), [0, 1]].concat());
    for answer in answers {
        // The question's name is at offset 12; half of the owners are written as a pointer to it.
        if answer.name == question.name {
            octets.extend([0xc0, 12])
        } else {
            put_name(&mut octets, &answer.name)
        }
        put_record(&mut octets, number(&answer.kind), answer.ttl, &data(answer));
    }
    if let Some(minimum) = soa {
        put_name(&mut octets, "test");
        let mut data = Vec::new();
        put_name(&mut data, "ns.test");
        put_name(&mut data, "root.test");
        data.extend([1, 1, 1, 1, minimum].iter().flat_map(|number: &u32| number.to_be_bytes()));
        put_record(&mut octets, SOA, 7200, &data);
    }
    octets
}

fn put_record(octets: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    octets.extend(kind.to_be_bytes());
    octets.extend([0, 1]);
    octets.extend(ttl.to_be_bytes());
    octets.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    octets.extend(data);
}

fn put_name(octets: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.bytes());
    }
    octets.push(0);
}

fn data(record: &Record) -> Vec<u8> {
    let mut octets = Vec::new();
    match &*record.kind {
        "A" => octets.extend(record.data.parse::<std::net::Ipv4Addr>().unwrap().octets()),
        "AAAA" => octets.extend(record.data.parse::<std::net::Ipv6Addr>().unwrap().octets()),
        "CNAME" => put_name(&mut octets, &record.data),
        "MX" => {
            let (preference, exchange) = record.data.split_once(' ').unwrap();
            octets.extend(preference.parse::<u16>().unwrap().to_be_bytes());
            put_name(&mut octets, exchange);
        }
        other => panic!("no such record type: {other}"),
    }
    octets
}

fn number(kind: &str) -> u16 {
    match kind {
        "A" => A,
        "AAAA" => AAAA,
        "CNAME" => CNAME,
        "MX" => MX,
        _ => 0,
    }
}
