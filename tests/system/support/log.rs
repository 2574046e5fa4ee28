//! The outcome log as a reader from outside sees it.

use serde_json::Value;
use std::path::Path;

/// One record.
#[derive(Clone, Debug)]
pub struct Record(pub Value);

impl Record {
    /// `Reception`, `Delivery`, and so on.
    pub fn kind(&self) -> &str {
        self.text("type")
    }

    /// The message's id.
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// A field that is text; empty when it is null.
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).unwrap_or_else(|| panic!("no {field} in {}", self.0)).as_str().unwrap_or("")
    }

    /// The recipients that it is about.
    pub fn recipients(&self) -> Vec<&str> {
        match &self.0["recipient"] {
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
            one => vec![one.as_str().unwrap()],
        }
    }

    /// The only recipient.
    pub fn recipient(&self) -> &str {
        self.text("recipient")
    }

    /// The reply's code.
    pub fn code(&self) -> u64 {
        self.0["response"]["code"].as_u64().unwrap()
    }

    /// The reply's enhanced code as text, empty if there was none.
    pub fn enhanced(&self) -> String {
        let code = &self.0["response"]["enhanced_code"];
        let part = |name: &str| code[name].as_u64().unwrap();
        if code.is_null() { String::new() } else { format!("{}.{}.{}", part("class"), part("subject"), part("detail")) }
    }

    /// The reply's words.
    pub fn content(&self) -> &str {
        self.0["response"]["content"].as_str().unwrap()
    }

    /// Attempts made, this one included.
    pub fn attempts(&self) -> u64 {
        self.0["num_attempts"].as_u64().unwrap()
    }
}

/// Every whole line of every file in the directory, shard after shard, each oldest first.
pub fn read(directory: &Path) -> Vec<Record> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    // "delivery-000.2026…jsonl" sorts before "delivery-000.jsonl", which is written last.
    paths.sort();
    let mut records = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
            records.push(Record(value));
        }
    }
    records
}
