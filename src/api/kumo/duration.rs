//! Durations as KumoMTA's API writes them: humantime, or a number of seconds.

use crate::json::Json;
use mailrace_shards::time::Timestamp;
use std::time::Duration;

/// Reads one: `"1h 30m"`, `90`, `1.5`, `"0"`.
///
/// # Errors
/// What is wrong, as a sentence without its subject.
pub fn read(json: &Json) -> Result<Duration, String> {
    match json {
        // The one number that needs no unit.
        Json::Text(text) if text == "0" => Ok(Duration::ZERO),
        Json::Text(text) => humantime::parse_duration(text).map_err(|error| format!("is no duration: {error}")),
        Json::Integer(seconds) => match u64::try_from(*seconds) {
            Ok(seconds) => Ok(Duration::from_secs(seconds)),
            Err(_) => Err("is a negative duration".to_owned()),
        },
        Json::Large(seconds) => Ok(Duration::from_secs(*seconds)),
        Json::Float(seconds) => {
            Duration::try_from_secs_f64(*seconds).map_err(|_| "is no duration: negative or too long".to_owned())
        }
        _ => Err("is no duration: write \"5m\", or a number of seconds".to_owned()),
    }
}

/// What is left of the time to `end`, in the long form.
#[must_use]
pub fn remaining(end: Timestamp, now: Timestamp) -> String {
    humantime::format_duration(end.since(now)).to_string()
}

#[cfg(test)]
mod tests {
    use super::{read, remaining};
    use crate::json::parse;
    use mailrace_shards::time::Timestamp;
    use std::time::Duration;

    #[test]
    fn durations() {
        for (json, expected) in [
            ("\"5m\"", Some(300.0)),
            ("\"1h 30m\"", Some(5400.0)),
            ("\"1.5h\"", Some(5400.0)),
            ("\"2 days\"", Some(172_800.0)),
            ("\"1M\"", Some(2_630_016.0)),
            ("\"1w\"", Some(604_800.0)),
            ("\"1y\"", Some(31_557_600.0)),
            ("\"250ms\"", Some(0.25)),
            ("\"10us\"", Some(0.000_01)),
            ("\"0\"", Some(0.0)),
            ("90", Some(90.0)),
            ("0", Some(0.0)),
            ("1.5", Some(1.5)),
            ("\"5\"", None),
            ("\"\"", None),
            ("\"5 parsecs\"", None),
            ("-1", None),
            ("-0.5", None),
            ("1e30", None),
            ("true", None),
            ("[]", None),
            ("\"99999999999999999999y\"", None),
        ] {
            let found = read(&parse(json.as_bytes()).unwrap());
            assert_eq!(found.ok(), expected.map(Duration::from_secs_f64), "{json}");
        }
    }

    #[test]
    fn what_is_left() {
        let now = Timestamp(1_000_000);
        assert_eq!(remaining(Timestamp(1_299_867), now), "4m 59s 867ms");
        assert_eq!(remaining(Timestamp(999_999), now), "0s");
    }
}
