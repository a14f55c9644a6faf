//! As much of HPACK as a client with one stream needs: it writes its headers without tables, and of the headers that it
//! receives it reads only how the call ended.

use std::fmt::Write as _;

/// Huffman codes are canonical: for each length, in bits, the characters in the order of their codes (RFC 7541, appendix B).
/// Longer codes are of bytes that no `grpc-message` holds.
const CODES: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

/// The headers that open a gRPC call.
pub fn request(authority: &str, path: &str, secure: bool) -> Vec<u8> {
    // Indexed: `:method: POST`, `:scheme: https` or `http`.
    let mut out = vec![0x83, if secure { 0x87 } else { 0x86 }];
    // Literals without indexing: `:authority`, `:path`, `content-type` and `user-agent` by the static table, `te` by name.
    literal(&mut out, &[0x01], authority);
    literal(&mut out, &[0x04], path);
    literal(&mut out, &[0x0f, 0x10], "application/grpc");
    literal(&mut out, &[0x0f, 0x2b], "heddle-bench");
    literal(&mut out, &[0x00, 0x02, b't', b'e'], "trailers");
    out
}

fn literal(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    // A length of 127 and more would need a second byte; the values written here are shorter, or cut.
    let value = value.as_bytes();
    let length = value.len().min(126);
    out.push(u8::try_from(length).unwrap_or(126));
    out.extend(value.iter().take(length));
}

/// How the call ended, from the block of its trailers: `grpc-status` and `grpc-message` as far as they can be read.
pub fn ending(block: &[u8]) -> String {
    let mut reader = Reader(block);
    let mut out = String::new();
    while let Some((name, value)) = reader.header() {
        if name.starts_with("grpc-") {
            // Writing to a String can't fail.
            let _ = write!(out, " {name}: {value}");
        }
    }
    out.trim().to_owned()
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// The next header that is written out; those that refer to a table have nothing to read.
    fn header(&mut self) -> Option<(String, String)> {
        loop {
            let first = *self.0.first()?;
            let prefix = match first {
                0x80.. => 7,
                0x40.. => 6,
                0x20.. => 5,
                _ => 4,
            };
            let index = self.integer(prefix)?;
            if prefix == 7 || prefix == 5 {
                continue;
            }
            let name = if index == 0 {
                self.string()?
            } else {
                String::new()
            };
            return Some((name, self.string()?));
        }
    }

    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = (1_usize << prefix) - 1;
        let (&first, mut rest) = self.0.split_first()?;
        let mut value = usize::from(first) & mask;
        if value == mask {
            for shift in (0..28).step_by(7) {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                value += usize::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
        }
        self.0 = rest;
        Some(value)
    }

    fn string(&mut self) -> Option<String> {
        let packed = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(if packed {
            unpack(bytes)
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        })
    }
}

/// Ends where a character comes that is not in the table, or the padding.
fn unpack(bytes: &[u8]) -> String {
    let mut out = String::new();
    let (mut code, mut length) = (0_usize, 0_u32);
    for bit in bytes.iter().flat_map(|byte| {
        (0..8)
            .rev()
            .map(move |shift| usize::from(byte >> shift & 1))
    }) {
        code = code << 1 | bit;
        length += 1;
        if let Some(character) = character(code, length) {
            out.push(character);
            (code, length) = (0, 0);
        } else if length > 15 {
            break;
        }
    }
    out
}

fn character(code: usize, wanted: u32) -> Option<char> {
    let (mut first, mut before) = (0_usize, 0_u32);
    for (length, characters) in CODES {
        first <<= length - before;
        if length == wanted {
            return characters.chars().nth(code.checked_sub(first)?);
        }
        first += characters.len();
        before = length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_the_examples_of_the_rfc() {
        // RFC 7541, C.4.1, C.4.2, C.6.1.
        let www = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(unpack(&www), "www.example.com");
        assert_eq!(unpack(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]), "no-cache");
        assert_eq!(unpack(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]), "private");
    }

    #[test]
    fn the_ending_is_found_among_other_headers() {
        let mut block = vec![0x20, 0x88];
        for (name, value) in [("grpc-status", "7"), ("grpc-message", "not%20you")] {
            block.push(0x40);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        block.extend([0x0f, 0x2b, 1, b'x']);
        assert_eq!(ending(&block), "grpc-status: 7 grpc-message: not%20you");
        assert_eq!(ending(&[0x40, 0xff]), "");
    }

    #[test]
    fn a_request_is_read_by_its_own_reader() {
        let block = request("a:1", "/p", true);
        let mut reader = Reader(&block);
        let mut found = Vec::new();
        while let Some(header) = reader.header() {
            found.push(header);
        }
        let values: Vec<&str> = found.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            values,
            ["a:1", "/p", "application/grpc", "heddle-bench", "trailers"]
        );
        assert_eq!(found[4].0, "te");
    }
}
