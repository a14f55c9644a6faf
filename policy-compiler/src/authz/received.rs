//! The headers of a request as the rules of its server see them: the server's sidecar removes some before, and sets one.

use crate::traffic::unrouted::{CLIENT_CERTIFICATE, routed};
use crate::world::SpiffeId;

/// Returns the headers that rules are asked about, of those that a caller has sent, with names in lower case. `caller` is the identity of the
/// connection by mTLS. The hash of its certificate is not known here, and stands as zeros.
pub fn received(
    headers: &[(String, String)],
    caller: Option<&SpiffeId>,
    server: &SpiffeId,
) -> Vec<(String, String)> {
    let mut seen = routed(headers);
    seen.extend(caller.map(|caller| {
        let hash = "0".repeat(64);
        let value = format!("By={server};Hash={hash};URI={caller}");
        (CLIENT_CERTIFICATE.to_owned(), value)
    }));
    seen
}
