//! When a client's certificate runs out.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

/// How long a certificate is valid at most, for the clock that streams wait by.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The moment after which the certificate is not valid any more. `None` if it cannot be parsed, which does not happen after
/// the TLS library has verified it.
pub(crate) fn end_of(certificate: &CertificateDer<'_>) -> Option<Instant> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after))?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    Some(Instant::now() + left.min(LONGEST))
}
