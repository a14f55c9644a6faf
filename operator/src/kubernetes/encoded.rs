//! The report of a replica as the data of its ConfigMap: text while it fits, else compressed.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Earlier versions read the text alone.
const TEXT: &str = "report.json";
const COMPRESSED: &str = "report.json.gz";
/// A ConfigMap may have 1 MiB, and compressed bytes take four thirds of their length in base64.
const MAX_TEXT: usize = 900_000;
const MAX_COMPRESSED: usize = 700_000;
/// The longest text that is read from compressed bytes.
const MAX_READ: u64 = 64 << 20;

/// Why a report is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("it cannot be read: {0}")]
    Text(#[from] serde_json::Error),
    #[error("it cannot be decompressed: {0}")]
    Compressed(#[from] std::io::Error),
    #[error("it is longer than {MAX_READ} bytes")]
    TooLong,
}

/// Returns a ConfigMap with the report. `None`: it is too large.
///
/// # Errors
/// The report has no JSON.
pub(super) fn encode(report: &impl Serialize) -> Result<Option<ConfigMap>, serde_json::Error> {
    let text = serde_json::to_string(report)?;
    if text.len() <= MAX_TEXT {
        return Ok(Some(ConfigMap {
            data: Some([(TEXT.to_owned(), text)].into()),
            ..ConfigMap::default()
        }));
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(text.as_bytes());
    let compressed = compressed.and_then(|()| encoder.finish());
    let compressed = compressed.map_err(serde_json::Error::io)?;
    let fits = compressed.len() <= MAX_COMPRESSED;
    Ok(fits.then(|| ConfigMap {
        binary_data: Some([(COMPRESSED.to_owned(), ByteString(compressed))].into()),
        ..ConfigMap::default()
    }))
}

/// Returns the report in a ConfigMap. `None`: it has none.
///
/// # Errors
/// It is not of this form, or too long.
pub(super) fn decode<T: DeserializeOwned>(map: &ConfigMap) -> Result<Option<T>, ReadError> {
    let compressed = map.binary_data.as_ref().and_then(|all| all.get(COMPRESSED));
    let Some(compressed) = compressed else {
        let text = map.data.as_ref().and_then(|all| all.get(TEXT));
        return Ok(text.map(|text| serde_json::from_str(text)).transpose()?);
    };
    let mut text = Vec::new();
    let mut decoder = GzDecoder::new(compressed.0.as_slice()).take(MAX_READ + 1);
    decoder.read_to_end(&mut text)?;
    if text.len() as u64 > MAX_READ {
        return Err(ReadError::TooLong);
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ConfigMap as others read it.
    fn written(report: &impl Serialize) -> Option<ConfigMap> {
        let text = serde_json::to_string(&encode(report).unwrap()?).unwrap();
        Some(serde_json::from_str(&text).unwrap())
    }

    fn names(count: usize) -> Vec<String> {
        let name = |index| format!("AuthPolicy/namespace-{}/policy-{index}", index % 100);
        (0..count).map(name).collect()
    }

    #[test]
    fn a_long_report_is_compressed_and_one_that_is_too_long_is_not_written() {
        let short = written(&names(10)).unwrap();
        assert!(short.data.is_some() && short.binary_data.is_none());
        let long = written(&names(50_000)).unwrap();
        assert!(long.data.is_none() && long.binary_data.is_some());
        for (map, count) in [(short, 10), (long, 50_000)] {
            assert_eq!(decode(&map).unwrap(), Some(names(count)));
        }
        // Random text does not become shorter.
        let mut state = 1_u64;
        let random = (0..120_000).map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            format!("{state:x}")
        });
        assert!(written(&random.collect::<Vec<_>>()).is_none());
        assert_eq!(decode::<Vec<String>>(&ConfigMap::default()).unwrap(), None);
    }

    #[test]
    fn a_report_that_grows_beyond_the_bound_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..=MAX_READ >> 20 {
            encoder.write_all(&[b' '; 1 << 20]).unwrap();
        }
        let bytes = ByteString(encoder.finish().unwrap());
        let map = ConfigMap {
            binary_data: Some([(COMPRESSED.to_owned(), bytes)].into()),
            ..ConfigMap::default()
        };
        let read = decode::<Vec<String>>(&map);
        assert!(matches!(read, Err(ReadError::TooLong)), "{read:?}");
    }
}
