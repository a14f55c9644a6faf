//! Annotations with values. A value that is admitted is parsed here into the type that its reader uses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::names;
use crate::world::mapped_block;

/// Entries of one exclusion list. The agent's batch of rules fits the kernel's bound on a netlink message with three full lists.
pub const MAX_EXCLUSIONS: usize = 1_000;

type Annotations = BTreeMap<String, String>;

/// Connections that are not captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Inbound ports that are not captured.
    pub inbound_ports: BTreeSet<u16>,
    /// Destination ports of outbound connections that are not captured.
    pub outbound_ports: BTreeSet<u16>,
    /// Destination addresses of outbound connections that are not captured.
    pub outbound_cidrs: BTreeSet<IpNet>,
}

impl Exclusions {
    /// Reads the annotations of a pod.
    ///
    /// # Errors
    /// Names the annotation and the entry that cannot be read.
    pub(super) fn read(annotations: &Annotations) -> Result<Self, String> {
        Ok(Self {
            inbound_ports: list(annotations, names::EXCLUDE_INBOUND_PORTS, inbound_port)?,
            outbound_ports: list(annotations, names::EXCLUDE_OUTBOUND_PORTS, port)?,
            outbound_cidrs: list(annotations, names::EXCLUDE_OUTBOUND_CIDRS, block)?,
        })
    }

    /// The entries that exclude nothing. Pods with them were admitted once, so that they are admitted still.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.outbound_cidrs.iter().filter_map(|block| {
            let plain = mapped_block(block)?;
            Some(format!(
                "metadata.annotations[{}]: {block} excludes nothing: connections over IPv4 have plain IPv4 addresses; write {plain}",
                names::EXCLUDE_OUTBOUND_CIDRS
            ))
        })
    }
}

fn list<T: Ord>(
    annotations: &Annotations,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, String> {
    let text = annotations.get(key).map(String::as_str).unwrap_or_default();
    let items = text.split(',').map(str::trim).filter(|i| !i.is_empty());
    let wrong = |reason| format!("metadata.annotations[{key}]: {reason}");
    let found: BTreeSet<T> = items.map(parse).collect::<Result<_, _>>().map_err(wrong)?;
    if found.len() > MAX_EXCLUSIONS {
        return Err(wrong(format!(
            "{} entries are more than {MAX_EXCLUSIONS}; write larger blocks, or label the pod heddle.dev/inject: disabled",
            found.len()
        )));
    }
    Ok(found)
}

fn port(item: &str) -> Result<u16, String> {
    let port = item.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{item:?} is not a port; use a number from 1 to 65535"))
}

fn inbound_port(item: &str) -> Result<u16, String> {
    let port = port(item)?;
    if heddle_ports::is_reserved(port) {
        return Err(format!("port {port} is the sidecar's own; remove it"));
    }
    Ok(port)
}

fn block(item: &str) -> Result<IpNet, String> {
    let block = item.parse().or_else(|_| item.parse().map(IpAddr::into));
    block.map_err(|_| format!("{item:?} is not an address block; write for example 10.0.0.0/8"))
}

/// Compute resources of a container: quantities by section (`requests`, `limits`) and resource (`cpu`, `memory`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(BTreeMap<(&'static str, &'static str), String>);

const SECTIONS: [&str; 2] = ["requests", "limits"];
pub(super) const RESOURCES: [&str; 2] = ["cpu", "memory"];

impl Resources {
    /// Reads an annotation such as `requests.cpu=100m, limits.cpu=100m`. Of a resource that stands twice the last value counts.
    pub(super) fn read(
        annotations: &Annotations,
        key: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Self, String> {
        let text = annotations.get(key).map(String::as_str).unwrap_or_default();
        let mut found = BTreeMap::new();
        for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            let (name, quantity) = entry(item).ok_or_else(|| {
                format!(
                    "metadata.annotations[{key}]: {item:?} is not a resource; write requests or limits, cpu or memory and a quantity, \
                     such as requests.cpu=100m,limits.memory=256Mi"
                )
            })?;
            if found.insert(name, quantity.to_owned()).is_some() {
                let (section, resource) = name;
                warnings.push(format!(
                    "metadata.annotations[{key}]: {section}.{resource} stands twice, and the last value counts; remove one"
                ));
            }
        }
        let found = Self(found);
        for resource in RESOURCES {
            let (request, limit) = (
                found.get("requests", resource),
                found.get("limits", resource),
            );
            if let (Some(request), Some(limit)) = (request, limit)
                && is_more(request, limit)
            {
                return Err(format!(
                    "metadata.annotations[{key}]: requests.{resource}={request} is more than limits.{resource}={limit}; \
                     lower the request or raise the limit"
                ));
            }
        }
        Ok(found)
    }

    /// Returns the quantity that an annotation sets.
    #[must_use]
    pub fn get(&self, section: &str, resource: &str) -> Option<&str> {
        let mut entries = self.0.iter();
        entries
            .find(|((s, r), _)| (*s, *r) == (section, resource))
            .map(|(_, quantity)| quantity.as_str())
    }
}

fn entry(item: &str) -> Option<((&'static str, &'static str), &str)> {
    let (name, quantity) = item.split_once('=')?;
    let (section, resource) = name.trim().split_once('.')?;
    let section = SECTIONS.into_iter().find(|s| *s == section)?;
    let resource = RESOURCES.into_iter().find(|r| *r == resource)?;
    let quantity = quantity.trim();
    is_quantity(quantity).then_some(((section, resource), quantity))
}

/// Whether a quantity is more than another one. One that is not a quantity is not.
#[must_use]
pub fn is_more(one: &str, other: &str) -> bool {
    nanos(one)
        .zip(nanos(other))
        .is_some_and(|(one, other)| one > other)
}

/// A quantity in units of 10^-9, rounded down. Beyond the largest number it is that. `None`: it is not a quantity.
#[must_use]
pub fn nanos(text: &str) -> Option<u128> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (unit, divisor): (u128, u128) = match text.get(number.len()..)? {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1000_u128.pow(2), 1),
        "G" => (1000_u128.pow(3), 1),
        "T" => (1000_u128.pow(4), 1),
        "P" => (1000_u128.pow(5), 1),
        "E" => (1000_u128.pow(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    let places = u32::try_from(fraction.len()).ok()?;
    let scaled = digits.saturating_mul(unit).saturating_mul(1_000_000_000);
    Some(scaled / divisor / 10_u128.checked_pow(places)?)
}

/// A quantity as the schema of `Mesh.spec.proxy` takes it.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 13] = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi",
    ];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = match digits.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction),
        None => all_digits(digits),
    };
    text.len() <= 32 && number && (SUFFIXES.contains(&suffix) || suffix == "Ei")
}
