//! The archive of a bug report: bounded, redacted, and with a manifest that names every part, and every part that is missing.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use heddle_acceptor::clean;
use serde::Serialize;
use serde_json::Value;
use tar::{Builder, Header};

use super::redact;

/// The largest part, in bytes.
const MAX_PART: usize = 8 << 20;
/// The longest reason, in characters.
const MAX_REASON: usize = 1000;

/// A part that is in the archive.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    path: String,
    bytes: usize,
    /// The bytes that did not fit. Of a log they are the oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_bytes: Option<usize>,
}

/// A part that is not in the archive.
#[derive(Clone, Debug, Serialize)]
struct Missing {
    part: String,
    reason: String,
}

/// The end of a text that is kept if not all of it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The beginning.
    Head,
    /// The end: the newest lines of a log.
    Tail,
}

/// An archive that is being written.
pub struct Archive<W: Write> {
    tar: Builder<GzEncoder<W>>,
    folder: String,
    /// Seconds since 1970.
    time: u64,
    /// The bytes that still fit.
    room: usize,
    bound: usize,
    parts: Vec<Part>,
    missing: Vec<Missing>,
}

impl<W: Write> Archive<W> {
    /// Begins an archive of so many bytes at most, before it is compressed.
    pub fn new(file: W, folder: &str, time: u64, bound: usize) -> Self {
        Self {
            tar: Builder::new(GzEncoder::new(file, Compression::default())),
            folder: folder.to_owned(),
            time,
            room: bound,
            bound,
            parts: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Adds a text, without its secrets; or the reason why it is missing.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn text(&mut self, path: &str, text: Result<String>, keep: Keep) -> Result<()> {
        match text {
            Ok(text) => self.add(path, &redact::text(&text), keep),
            Err(error) => {
                self.lacks(path, &crate::cluster::explain(&error));
                Ok(())
            }
        }
    }

    /// Adds objects as a JSON list, without their secrets; or the reason why they are missing.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn objects(&mut self, path: &str, objects: Result<Vec<Value>>) -> Result<()> {
        let text = objects.and_then(|mut objects| {
            objects.iter_mut().for_each(redact::object);
            Ok(serde_json::to_string_pretty(&objects)?)
        });
        match text {
            Ok(text) => self.add(path, &text, Keep::Head),
            Err(error) => {
                self.lacks(path, &crate::cluster::explain(&error));
                Ok(())
            }
        }
    }

    /// Names a part that is missing.
    pub fn lacks(&mut self, part: &str, reason: &str) {
        let reason = clean(&redact::text(reason), MAX_REASON);
        crate::out::note!("heddle: not in the report: {part}: {reason}");
        self.missing.push(Missing {
            part: part.to_owned(),
            reason,
        });
    }

    fn add(&mut self, path: &str, text: &str, keep: Keep) -> Result<()> {
        let fits = MAX_PART.min(self.room);
        if fits == 0 {
            let reason = format!("the report is full: {} bytes (--max-size)", self.bound);
            self.lacks(path, &reason);
            return Ok(());
        }
        let kept = match keep {
            Keep::Head => text.get(..text.floor_char_boundary(fits)),
            Keep::Tail => text.get(text.ceil_char_boundary(text.len().saturating_sub(fits))..),
        };
        let kept = kept.unwrap_or_default();
        self.room -= kept.len();
        self.append(path, kept)?;
        let left_out = text.len() - kept.len();
        self.parts.push(Part {
            path: path.to_owned(),
            bytes: kept.len(),
            left_out_bytes: (left_out > 0).then_some(left_out),
        });
        Ok(())
    }

    fn append(&mut self, path: &str, text: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = format!("{}/{path}", self.folder);
        let added = self.tar.append_data(&mut header, &path, text.as_bytes());
        added.with_context(|| format!("cannot write {path} to the archive"))
    }

    /// Writes the manifest and ends the archive. Returns the number of parts that are missing.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn end(mut self) -> Result<(W, usize)> {
        let manifest = serde_json::json!({
            "heddle": env!("CARGO_PKG_VERSION"),
            "createdSecondsSince1970": self.time,
            "bounds": {"bytes": self.bound, "bytesOfAPart": MAX_PART},
            "redacted": "Secrets and ConfigMaps are not read. The values of environment variables, of annotations of other projects, and of \
                         fields, headers, cookies, flags and parameters with sensitive names are replaced, as are PEM, JSON web tokens and \
                         passwords in URLs. A secret in a place that no rule knows is not found: look at the archive before you publish it.",
            "parts": self.parts,
            "missing": self.missing,
        });
        let text = serde_json::to_string_pretty(&manifest)?;
        self.append("manifest.json", &text)?;
        let missing = self.missing.len();
        let file = self.tar.into_inner().context("cannot end the archive")?;
        let file = file.finish().context("cannot end the archive")?;
        Ok((file, missing))
    }
}

/// The paths and texts of an archive.
#[cfg(test)]
pub fn unpack(archive: &[u8]) -> std::collections::BTreeMap<String, String> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let entries = tar.entries().unwrap();
    let read = entries.map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let text = std::io::read_to_string(&mut entry).unwrap();
        (path, text)
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_bounded_and_names_what_it_lacks() {
        let mut archive = Archive::new(Vec::new(), "report", 7, 30);
        archive
            .text("a.log", Ok("old new token=planted".into()), Keep::Tail)
            .unwrap();
        archive
            .text("b.txt", Ok("é".repeat(20)), Keep::Head)
            .unwrap();
        archive.text("c.txt", Ok("x".into()), Keep::Head).unwrap();
        archive
            .text(
                "d.txt",
                Err(anyhow::anyhow!("no right, password=planted")),
                Keep::Head,
            )
            .unwrap();
        let (bytes, missing) = archive.end().unwrap();
        let parts = unpack(&bytes);
        assert_eq!(parts["report/a.log"], "old new token=[redacted]");
        assert_eq!(parts["report/b.txt"], "ééé");
        let manifest: Value = serde_json::from_str(&parts["report/manifest.json"]).unwrap();
        assert_eq!(manifest["parts"][1]["leftOutBytes"], 34);
        assert_eq!(
            (missing, manifest["missing"].as_array().unwrap().len()),
            (2, 2)
        );
        assert_eq!(manifest["missing"][1]["part"], "d.txt");
        assert!(parts.values().all(|text| !text.contains("planted")));
    }
}
