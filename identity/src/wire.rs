//! The service `heddle.identity.v1.Identity`: client, server and messages, and how the token travels.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("heddle.identity.v1");
}

pub use generated::identity_client::IdentityClient;
pub use generated::identity_server::{Identity, IdentityServer};
pub use generated::{IssueRequest, IssueResponse};

/// A token is about 1 kB; a far longer value is not a token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

impl std::fmt::Debug for IssueRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "IssueRequest {{ csr: {} bytes, lifetime_seconds: {} }}",
            self.csr.len(),
            self.lifetime_seconds
        )
    }
}

/// Puts the token where the service looks for it. The value is marked sensitive, so no log of headers shows it.
///
/// # Errors
/// When the token holds characters that a header may not hold.
pub fn set_bearer(
    metadata: &mut MetadataMap,
    token: &str,
) -> Result<(), tonic::metadata::errors::InvalidMetadataValue> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse()?;
    value.set_sensitive(true);
    metadata.insert("authorization", value);
    Ok(())
}

/// The token of a request: none when it is missing, twice there, no text, or too long to be one.
pub fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let sound = scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
        && token.len() <= MAX_TOKEN_BYTES;
    sound.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_travels_and_is_not_shown() {
        let mut metadata = MetadataMap::new();
        assert_eq!(bearer(&metadata), None);
        set_bearer(&mut metadata, "abc.def\n").unwrap();
        assert_eq!(bearer(&metadata), Some("abc.def"));
        assert!(!format!("{metadata:?}").contains("abc"));
    }

    #[test]
    fn values_other_than_one_bearer_token_are_none() {
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        for values in [
            vec!["Basic abc"],
            vec!["Bearer "],
            vec!["abc"],
            vec!["Bearer a", "Bearer b"],
            vec![long.as_str()],
        ] {
            let mut metadata = MetadataMap::new();
            for value in &values {
                metadata.append("authorization", value.parse().unwrap());
            }
            assert_eq!(bearer(&metadata), None, "{values:?}");
        }
    }
}
