//! The protocol of a port, as its Service declares it.

/// Ports at which the server speaks first: FTP, SSH, SMTP, POP3, IMAP, submission of mail, MySQL and VNC (IANA), and NATS
/// (docs.nats.io).
const SERVER_FIRST: [u16; 9] = [21, 22, 25, 110, 143, 587, 3306, 4222, 5900];

/// Whether a port of Kubernetes is of TCP, by its field `protocol`; others are not captured. The API server writes TCP where the field is
/// empty.
#[must_use]
pub(crate) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

/// The way in which the mesh handles a port's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP of any version, gRPC included.
    Http,
    /// Opaque bytes, TLS of the application included.
    Tcp,
    /// Nothing was declared: looked at, with TCP as the answer in doubt.
    Detect,
}

impl Protocol {
    /// Lower-case name, as in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Detect => "detect",
        }
    }

    /// The application protocol; of a port without a known one, the prefix of its name. An unknown word takes nothing from the name:
    /// rules about HTTP would not hold for bytes.
    #[must_use]
    pub fn of(app_protocol: Option<&str>, port_name: Option<&str>) -> Self {
        let prefix = |name| str::split_once(name, '-').map_or(name, |(prefix, _)| prefix);
        let named = || port_name.map(prefix).and_then(Self::word);
        let declared = app_protocol.and_then(Self::word);
        declared.or_else(named).unwrap_or(Self::Detect)
    }

    /// The protocol that a caller's sidecar announces at a port: bytes where the server speaks first, for to wait there for bytes of the
    /// client would delay every connection.
    pub(crate) fn announced(self, port: u16) -> Self {
        match self {
            Self::Detect if SERVER_FIRST.contains(&port) => Self::Tcp,
            declared => declared,
        }
    }

    /// The meaning of a word. None: it is unknown.
    pub(crate) fn word(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "http" | "http2" | "h2c" | "grpc" | "grpc-web" | "ws" | "kubernetes.io/h2c"
            | "kubernetes.io/ws" => Some(Self::Http),
            "tcp" | "tls" | "ssl" | "https" | "grpcs" | "wss" | "kubernetes.io/wss" | "mysql"
            | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb" | "amqp" | "nats"
            | "kafka" | "smtp" | "ldap" | "cassandra" | "memcached" | "mqtt" | "ssh" | "ftp"
            | "imap" | "pop3" | "vnc" => Some(Self::Tcp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_protocol_decides_and_without_a_known_one_the_name_of_the_port() {
        for (declared, name, protocol) in [
            (None, "http-web", Protocol::Http),
            (Some(""), "http-web", Protocol::Http),
            (None, "web-http", Protocol::Detect),
            (None, "https", Protocol::Tcp),
            (None, "grpcs-a", Protocol::Tcp),
            (Some("http"), "redis-a", Protocol::Http),
            (Some("HTTP2"), "a", Protocol::Http),
            (Some("grpc"), "a", Protocol::Http),
            (Some("grpc-web"), "a", Protocol::Http),
            (Some("kubernetes.io/h2c"), "tcp", Protocol::Http),
            (Some("kubernetes.io/ws"), "tcp", Protocol::Http),
            (Some("kubernetes.io/wss"), "http", Protocol::Tcp),
            (Some("HTTPS"), "http", Protocol::Tcp),
            (Some("grpcs"), "grpc-a", Protocol::Tcp),
            (Some("ssl"), "http-a", Protocol::Tcp),
            (Some("redis"), "http-a", Protocol::Tcp),
        ] {
            assert_eq!(
                Protocol::of(declared, Some(name)),
                protocol,
                "{declared:?} {name}"
            );
        }
        for unknown in [
            "foo",
            "example.com/http",
            "http/1.1",
            "http-a",
            "kubernetes.io/grpc",
        ] {
            for name in ["http", "grpc-a", "tcp-a", "redis", "a", ""] {
                let found = Protocol::of(Some(unknown), Some(name));
                assert_eq!(found, Protocol::of(None, Some(name)), "{unknown} {name}");
            }
        }
    }

    #[test]
    fn a_port_without_a_transport_protocol_is_of_tcp() {
        for (protocol, tcp) in [
            (None, true),
            (Some(""), true),
            (Some("TCP"), true),
            (Some("UDP"), false),
            (Some("tcp"), false),
        ] {
            assert_eq!(is_tcp(protocol), tcp, "{protocol:?}");
        }
    }
}
