//! Protobuf's wire format, read in place: the few fields that matter here, without building whole messages.
//!
//! The load program shares the cores with the measured server; a full decode of every resource for every stream would be
//! most of its work.

use anyhow::{Context, Result, bail};

/// One field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a flag or an enum.
    Varint(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// Eight or four bytes, which nothing here needs.
    Fixed,
}

/// The fields of a message, in the order of the wire.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

/// Reads a message.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

/// Calls with each submessage (or string) of one field.
///
/// # Errors
/// When the message is malformed, or the call fails.
pub fn each<'a>(
    message: &'a [u8],
    field: u64,
    mut call: impl FnMut(&'a [u8]) -> Result<()>,
) -> Result<()> {
    for found in fields(message) {
        match found? {
            (number, Value::Bytes(bytes)) if number == field => call(bytes)?,
            _ => {}
        }
    }
    Ok(())
}

/// The last value of a submessage or string, which is the one that counts.
///
/// # Errors
/// When the message is malformed.
pub fn last(message: &[u8], field: u64) -> Result<Option<&[u8]>> {
    let mut found = None;
    each(message, field, |bytes| {
        found = Some(bytes);
        Ok(())
    })?;
    Ok(found)
}

/// The value of a number; zero if it is not there.
///
/// # Errors
/// When the message is malformed.
pub fn number(message: &[u8], field: u64) -> Result<u64> {
    let mut found = 0;
    for value in fields(message) {
        if let (number, Value::Varint(value)) = value?
            && number == field
        {
            found = value;
        }
    }
    Ok(found)
}

/// A string.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).context("a string is not UTF-8")
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().context("a number is cut off")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number has more than ten bytes")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .context("a field is longer than its message")?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => bail!("wire type {other}"),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wire_types_are_read_and_nonsense_is_an_error() {
        let message = [
            0x08, 0x96, 0x01, // 1: 150
            0x11, 1, 2, 3, 4, 5, 6, 7, 8, // 2: fixed64
            0x1a, 2, b'h', b'i', // 3: "hi"
            0x25, 1, 2, 3, 4, // 4: fixed32
        ];
        let found: Vec<_> = fields(&message).map(|f| f.unwrap()).collect();
        assert_eq!(
            found,
            [
                (1, Value::Varint(150)),
                (2, Value::Fixed),
                (3, Value::Bytes(b"hi")),
                (4, Value::Fixed)
            ]
        );
        assert_eq!(number(&message, 1).unwrap(), 150);
        assert_eq!(last(&message, 3).unwrap(), Some(b"hi".as_slice()));
        for cut in [&message[..2], &message[..5], &[0x1a, 9, 1], &[0x0b]] {
            assert!(fields(cut).any(|f| f.is_err()), "{cut:?}");
        }
        assert!(fields(&[0x08; 1]).next().unwrap().is_err());
    }
}
