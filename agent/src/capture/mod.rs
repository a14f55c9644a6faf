//! Traffic capture: one nftables table of our own, written over netlink, so that the image needs no tool.
//!
//! Capture only redirects. Which connection may go where is Envoy's to say, by the policies it was given.

mod encode;
mod host;
mod netlink;
mod rules;

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use nix::errno::Errno;

pub use rules::{Match, Rule, Verdict, output, prerouting};

use crate::SettingsError;

/// What `heddle-agent init` takes from its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The user of Envoy and the agent, whose own connections are not captured.
    pub proxy_uid: u32,
    /// The addresses of the pod's node, from which the kubelet probes.
    pub host_ips: Vec<IpAddr>,
    /// Ports the kubelet probes by TCP: answered by the application itself, or the probe would say nothing.
    pub tcp_probe_ports: Vec<u16>,
    /// Inbound ports left alone.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound ports left alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Outbound destinations left alone.
    pub exclude_outbound_cidrs: Vec<IpNet>,
}

impl Settings {
    /// Reads the environment through `read`.
    ///
    /// # Errors
    /// When a variable is no good; the text names it. All have defaults.
    pub fn from_env(read: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let uid = list(&read, "HEDDLE_PROXY_UID", "it should be a user id")?;
        let proxy_uid = match uid.as_slice() {
            [] => 1337,
            [0] => {
                return Err(bad(
                    "HEDDLE_PROXY_UID",
                    "0",
                    "root can't be the proxy's user: its connections are not captured",
                ));
            }
            [uid] => *uid,
            _ => return Err(bad("HEDDLE_PROXY_UID", "...", "it should be one user id")),
        };
        let ports = "it should be ports, separated by commas";
        Ok(Self {
            proxy_uid,
            host_ips: list(
                &read,
                "HEDDLE_HOST_IPS",
                "it should be addresses, separated by commas",
            )?,
            tcp_probe_ports: list(&read, "HEDDLE_TCP_PROBE_PORTS", ports)?,
            exclude_inbound_ports: list(&read, "HEDDLE_EXCLUDE_INBOUND_PORTS", ports)?,
            exclude_outbound_ports: list(&read, "HEDDLE_EXCLUDE_OUTBOUND_PORTS", ports)?,
            exclude_outbound_cidrs: list(
                &read,
                "HEDDLE_EXCLUDE_OUTBOUND_CIDRS",
                "it should be networks such as 10.0.0.0/8, separated by commas",
            )?,
        })
    }
}

fn list<T: std::str::FromStr>(
    read: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    why: &'static str,
) -> Result<Vec<T>, SettingsError> {
    let value = read(name).unwrap_or_default();
    let parts = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| bad(name, &value, why))
}

fn bad(name: &'static str, value: &str, why: &'static str) -> SettingsError {
    SettingsError::Bad {
        name,
        value: value.chars().take(200).collect(),
        why,
    }
}

/// Captures the traffic of this network namespace. Run again, it replaces what it did before, in one step.
///
/// # Errors
/// When the kernel or the rights of this container don't allow it. Then nothing has changed.
pub fn install(settings: &Settings) -> Result<()> {
    let mut settings = settings.clone();
    settings.host_ips.extend(host::default_gateways()?);
    settings.host_ips.sort_unstable();
    settings.host_ips.dedup();
    let loopback = nix::net::if_::if_nametoindex("lo").context("there is no loopback interface")?;
    let batch = encode::table(&output(&settings), &prerouting(&settings), loopback);
    // The address first: rules without it would lead nowhere.
    if host::ipv6_on_loopback() {
        netlink::add_loopback_address(host::INBOUND_SOURCE_V6, loopback).map_err(|e| {
            explained(
                e,
                "the address ::6 can't be added to the loopback interface",
            )
        })?;
    }
    tracing::info!(host_ips = ?settings.host_ips, rules = batch.rules, "installing capture");
    netlink::commit(&batch).map_err(|e| explained(e, "the rules of capture can't be installed"))
}

fn explained(error: netlink::NetlinkError, what: &str) -> anyhow::Error {
    let why = match error.errno() {
        Some(Errno::EPERM | Errno::EACCES) => {
            "the init container needs the capability NET_ADMIN (and the user root)"
        }
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT) => {
            "the node's kernel lacks nf_tables with NAT (modules nf_tables, nft_chain_nat, nft_redir, for IPv4 and IPv6)"
        }
        _ => "the kernel refuses them",
    };
    anyhow::Error::new(error).context(format!("{what}: {why}"))
}

/// For tests: capture taken back. Nothing of a pod's life needs it, for its network namespace ends with it.
///
/// # Errors
/// As [`install`].
pub fn remove() -> Result<()> {
    match netlink::commit(&encode::no_table()) {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_env(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_environment_is_read() {
        assert_eq!(from(&[]).unwrap().proxy_uid, 1337);
        let settings = from(&[
            ("HEDDLE_HOST_IPS", "10.0.0.1,fd00::1"),
            ("HEDDLE_TCP_PROBE_PORTS", " 80, 81 ,"),
            ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.0.0.0/8,fd00::/8"),
        ])
        .unwrap();
        assert_eq!(settings.host_ips.len(), 2);
        assert_eq!(settings.tcp_probe_ports, [80, 81]);
        assert_eq!(settings.exclude_outbound_cidrs.len(), 2);
    }

    #[test]
    fn what_is_no_good_is_named() {
        for (name, value) in [
            ("HEDDLE_PROXY_UID", "0"),
            ("HEDDLE_PROXY_UID", "envoy"),
            ("HEDDLE_PROXY_UID", "1,2"),
            ("HEDDLE_HOST_IPS", "node"),
            ("HEDDLE_TCP_PROBE_PORTS", "65536"),
            ("HEDDLE_EXCLUDE_INBOUND_PORTS", "http"),
            ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", "1-2"),
            ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.0.0.0/33"),
        ] {
            let error = from(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
