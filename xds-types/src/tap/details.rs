//! The values that Envoy adds to a request in one tag: the access log service has no fields for them, or several.

/// The name of the tag.
pub const TAG: &str = "heddle";

/// Separates the values. Only the last one is a text of the client's.
const SEPARATOR: char = ';';

/// The values; empty where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details<'a> {
    /// At the server: the service for which the port stands.
    pub service: &'a str,
    /// Envoy's response flags.
    pub flags: &'a str,
    /// The status of gRPC.
    pub grpc_status: &'a str,
    /// The rule of a policy that decided.
    pub policy: &'a str,
    /// At the caller: the identity that the server has shown.
    pub server: &'a str,
    /// The method.
    pub method: &'a str,
}

/// Reads the tag.
#[must_use]
pub fn parse(tag: &str) -> Details<'_> {
    let mut values = tag.splitn(6, SEPARATOR);
    let mut next = || {
        let value = values.next().unwrap_or_default();
        // Envoy writes a dash for a value that is not there.
        if value == "-" { "" } else { value }
    };
    Details {
        service: next(),
        flags: next(),
        grpc_status: next(),
        policy: next(),
        server: next(),
        method: next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_method_is_of_the_client() {
        let details = parse("reviews;-;-;shop/a/0;-;GET;x;UF");
        assert_eq!(
            (
                details.service,
                details.flags,
                details.policy,
                details.method
            ),
            ("reviews", "", "shop/a/0", "GET;x;UF")
        );
        assert_eq!(parse(""), Details::default());
    }
}
