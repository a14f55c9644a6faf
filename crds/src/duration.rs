//! A length of time as people write it.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The pattern of the schema: whole numbers with a unit, such as `1h30m`.
pub(crate) const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";
/// The units in the order of [`PATTERN`], with their milliseconds and the most digits before them.
const UNITS: [(&str, u64, usize); 4] = [
    ("h", 3_600_000, 6),
    ("m", 60_000, 8),
    ("s", 1000, 9),
    ("ms", 1, 9),
];

/// A length of time in hours, minutes, seconds and milliseconds, such as `24h`, `90s`, `250ms` or `1h30m`. Keeps the text it came from, so
/// that reading and writing an object changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HumanDuration {
    text: String,
    value: Duration,
}

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a duration: write hours, minutes, seconds and milliseconds in that order, such as 24h, 1h30m or 250ms",
            self.0
        )
    }
}

impl std::error::Error for InvalidDuration {}

impl HumanDuration {
    /// A duration of whole hours.
    #[must_use]
    pub fn hours(hours: u32) -> Self {
        Self {
            text: format!("{hours}h"),
            value: Duration::from_secs(u64::from(hours) * 3600),
        }
    }

    /// A duration of seconds.
    #[must_use]
    pub fn seconds(seconds: u32) -> Self {
        Self {
            text: format!("{seconds}s"),
            value: Duration::from_secs(seconds.into()),
        }
    }

    /// A duration of milliseconds.
    #[must_use]
    pub fn milliseconds(milliseconds: u32) -> Self {
        Self {
            text: format!("{milliseconds}ms"),
            value: Duration::from_millis(u64::from(milliseconds)),
        }
    }

    /// The length of time.
    #[must_use]
    pub const fn get(&self) -> Duration {
        self.value
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value = milliseconds(text).ok_or_else(|| InvalidDuration(text.to_owned()))?;
        Ok(Self {
            text: text.to_owned(),
            value: Duration::from_millis(value),
        })
    }
}

/// Units must come in the order of [`UNITS`], each at most once, and something must be there.
fn milliseconds(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (own, after) = after.split_at(letters);
        let (_, factor, most) = units.find(|(unit, _, _)| *unit == own)?;
        if digits > *most {
            return None;
        }
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = after;
    }
    Some(total)
}

impl TryFrom<String> for HumanDuration {
    type Error = InvalidDuration;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HumanDuration> for String {
    fn from(duration: HumanDuration) -> Self {
        duration.text
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "HumanDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 20, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, milliseconds) in [
            ("24h", 86_400_000),
            ("10m", 600_000),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1h0m5s", 3_605_000),
            ("250ms", 250),
            ("1m1ms", 60_001),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(
                duration.get(),
                Duration::from_millis(milliseconds),
                "{text}"
            );
            assert_eq!(duration.to_string(), text);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "", "24", "h", "1m1h", "1h1h", "1d", "-1h", "1.5h", "1h ", "9999999h", "１h", "1ms1s",
            "ms", "1s1s", "1 ms",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }
}
