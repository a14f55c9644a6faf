//! A length of time as people write it.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The pattern of the schema: whole numbers with a unit, such as `1h30m`.
const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,8}m)?([0-9]{1,9}s)?$";

/// A length of time in hours, minutes and seconds, such as `24h`, `90s` or `1h30m`. Keeps the text it came from, so
/// that reading and writing an object changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HumanDuration {
    text: String,
    value: Duration,
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a duration: write hours, minutes and seconds in that order, such as 24h or 1h30m",
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
        let seconds = seconds(text).ok_or_else(|| InvalidDuration(text.to_owned()))?;
        Ok(Self {
            text: text.to_owned(),
            value: Duration::from_secs(seconds),
        })
    }
}

/// Units must come in the order of [`PATTERN`], each at most once, and something must be there.
fn seconds(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = 0_u64;
    for (unit, factor, digits) in [('h', 3600, 6), ('m', 60, 8), ('s', 1, 9)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if number.is_empty()
                || number.len() > digits
                || !number.bytes().all(|byte| byte.is_ascii_digit())
            {
                return None;
            }
            total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
            rest = after;
        }
    }
    rest.is_empty().then_some(total)
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
        for (text, seconds) in [
            ("24h", 86_400),
            ("10m", 600),
            ("90s", 90),
            ("1h30m", 5_400),
            ("1h0m5s", 3_605),
        ] {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.get(), Duration::from_secs(seconds), "{text}");
            assert_eq!(duration.to_string(), text);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "", "24", "h", "1m1h", "1h1h", "1d", "-1h", "1.5h", "1h ", "9999999h", "１h",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }
}
