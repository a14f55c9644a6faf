//! A share in percent, in steps of a hundredth.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// The hundredths of a percent in a whole.
const WHOLE: u16 = 10_000;

/// A share in percent from 0 to 100, in steps of 0.01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// Everything.
    pub const ALL: Self = Self(WHOLE);
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The share in parts of 10,000.
    #[must_use]
    pub const fn of_ten_thousand(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        let hundredths = (percent * 100.0).round();
        // A step of 0.01 is not an exact fraction of two, so 0.29 is 28.999... hundredths.
        if !(0.0..=f64::from(WHOLE)).contains(&hundredths)
            || (percent * 100.0 - hundredths).abs() > 1e-6
        {
            return Err(D::Error::custom(format!(
                "{percent} is not a percentage; write a number from 0 to 100 with at most two decimals"
            )));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(hundredths as u16))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 100 {
            0 => serializer.serialize_u16(self.0 / 100),
            _ => serializer.serialize_f64(f64::from(self.0) / 100.0),
        }
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 100})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, to_string};

    use super::Percent;

    #[test]
    fn hundredths_are_kept_and_finer_shares_refused() {
        for (text, parts) in [
            ("0", 0),
            ("1", 100),
            ("0.01", 1),
            ("0.29", 29),
            ("99.99", 9999),
            ("100", 10_000),
        ] {
            let read: Percent = from_str(text).unwrap();
            assert_eq!(read.of_ten_thousand(), parts);
            assert_eq!(to_string(&read).unwrap(), text);
        }
        for text in ["-1", "100.01", "0.001", "1e9", "\"1\"", "null"] {
            assert!(from_str::<Percent>(text).is_err(), "{text}");
        }
        assert_eq!(
            to_string(&from_str::<Percent>("50.0").unwrap()).unwrap(),
            "50"
        );
    }
}
