//! The environment of `heddle-agent init`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// The settings of capture; read from the environment that the injection webhook sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureSettings {
    /// The user that the sidecar runs as; its own connections are not captured.
    pub proxy_uid: u32,
    /// Addresses of the pod's own node: the kubelet's probes come from them.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Ports with a `tcpSocket` probe. A connection from the node is refused while the application does not listen there.
    pub tcp_probe_ports: BTreeSet<u16>,
    /// Inbound connections to these ports are not captured.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Outbound connections to these ports are not captured.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Outbound connections to these destinations are not captured.
    pub exclude_outbound_cidrs: BTreeSet<IpNet>,
}

/// A setting that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {value:?} is not a valid {expected}; separate several by commas")]
pub struct SettingsError {
    variable: &'static str,
    value: String,
    expected: &'static str,
}

impl CaptureSettings {
    /// Reads the settings by `lookup`, for example [`std::env::var`].
    ///
    /// # Errors
    /// Names the variable that has a value that can't be read.
    pub fn read(lookup: impl Fn(&'static str) -> Option<String>) -> Result<Self, SettingsError> {
        let uids: BTreeSet<u32> = list(&lookup, "HEDDLE_PROXY_UID", "user id")?;
        Ok(Self {
            proxy_uid: uids.first().copied().unwrap_or(1337),
            node_addresses: list(&lookup, "HEDDLE_HOST_IPS", "IP address")?,
            tcp_probe_ports: list(&lookup, "HEDDLE_TCP_PROBE_PORTS", "port")?,
            exclude_inbound_ports: list(&lookup, "HEDDLE_EXCLUDE_INBOUND_PORTS", "port")?,
            exclude_outbound_ports: list(&lookup, "HEDDLE_EXCLUDE_OUTBOUND_PORTS", "port")?,
            exclude_outbound_cidrs: list(
                &lookup,
                "HEDDLE_EXCLUDE_OUTBOUND_CIDRS",
                "address block like 10.0.0.0/8",
            )?,
        })
    }
}

fn list<T: std::str::FromStr + Ord>(
    lookup: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
    expected: &'static str,
) -> Result<BTreeSet<T>, SettingsError> {
    let text = lookup(variable).unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            item.parse().map_err(|_| SettingsError {
                variable,
                value: item.to_owned(),
                expected,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_environment_and_faults_name_the_variable() {
        let read = |name: &'static str, value: &'static str| {
            CaptureSettings::read(|n| (n == name).then(|| value.to_owned()))
        };
        assert_eq!(read("NOTHING", "").unwrap().proxy_uid, 1337);
        assert_eq!(
            read("HEDDLE_TCP_PROBE_PORTS", "80, 81")
                .unwrap()
                .tcp_probe_ports,
            [80, 81].into()
        );
        assert_eq!(
            read("HEDDLE_HOST_IPS", "10.0.0.1,fd00::1")
                .unwrap()
                .node_addresses
                .len(),
            2
        );
        let error = read("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.0.0.0")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("HEDDLE_EXCLUDE_OUTBOUND_CIDRS") && error.contains("10.0.0.0"),
            "{error}"
        );
    }
}
