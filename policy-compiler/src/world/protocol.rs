//! The protocol of a port, as its Service declares it.

use super::Port;

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

/// Ports of protocols in which the server speaks first (IANA): FTP, SSH, SMTP, POP3, IMAP, submission of mail, MySQL, and VNC. A sidecar that
/// waited there for the first bytes of the client would delay every connection.
const SERVER_FIRST: [u16; 8] = [21, 22, 25, 110, 143, 587, 3306, 5900];

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

    /// The application protocol first, then the prefix of the port's name. Else [`Protocol::Tcp`] at the ports of protocols in which the server
    /// speaks first, and [`Protocol::Detect`] at others.
    #[must_use]
    pub fn of(app_protocol: Option<&str>, port_name: Option<&str>, port: Port) -> Self {
        app_protocol
            .and_then(Self::word)
            .or_else(|| {
                port_name
                    .map(|name| name.split_once('-').map_or(name, |(prefix, _)| prefix))
                    .and_then(Self::word)
            })
            .unwrap_or(if SERVER_FIRST.contains(&port.get()) {
                Self::Tcp
            } else {
                Self::Detect
            })
    }

    fn word(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "http" | "http2" | "h2c" | "grpc" | "ws" | "kubernetes.io/h2c" | "kubernetes.io/ws" => {
                Some(Self::Http)
            }
            "tcp" | "tls" | "https" | "wss" | "kubernetes.io/wss" | "mysql" | "postgres"
            | "postgresql" | "redis" | "mongo" | "mongodb" | "amqp" | "nats" | "kafka" | "smtp"
            | "ldap" | "cassandra" | "memcached" | "mqtt" => Some(Self::Tcp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_protocol_wins_over_that_of_the_number() {
        let of = |app_protocol, name, port| {
            Protocol::of(app_protocol, name, Port::try_from(port).unwrap())
        };
        assert_eq!(of(None, None, 80), Protocol::Detect);
        assert_eq!(of(None, Some("db"), 3306), Protocol::Tcp);
        assert_eq!(of(None, Some("http-db"), 3306), Protocol::Http);
        assert_eq!(of(Some("HTTP"), Some("tcp"), 25), Protocol::Http);
        assert_eq!(of(Some("example.com/x"), None, 25), Protocol::Tcp);
        assert_eq!(of(Some("example.com/x"), None, 8080), Protocol::Detect);
    }
}
