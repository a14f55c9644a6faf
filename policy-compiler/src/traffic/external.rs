//! Hosts outside the mesh that applications call by name.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use sha2::{Digest, Sha256};

use super::filters::HeaderPolicy;
use super::rule::RoutePolicy;
use super::upstream_policy::UpstreamPolicy;
use crate::finding::ObjectRef;
use crate::world::Port;

/// The private addresses, which an object may open to names below a wildcard.
const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "fc00::/7",
];

/// The addresses that no name below a wildcard leads to: of the pod itself, of its link (such as the metadata of a cloud), of groups,
/// reserved ones, and those that stand for addresses of IPv4. Few and wide: Envoy warns of each range.
const SPECIAL: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "fe00::/7",
];

/// The metadata of clouds at addresses that are not of the link: a name below a wildcard leads there neither by a private block that an object
/// opens nor where the address is public. AWS and Google by IPv6, Alibaba Cloud, Oracle Cloud, Azure's host agent.
const METADATA: [&str; 5] = [
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
];

fn blocks(texts: &[&str]) -> impl Iterator<Item = IpNet> {
    texts.iter().filter_map(|text| text.parse().ok())
}

/// Whether a block has private addresses alone, other than the metadata of clouds.
pub(crate) fn is_private(block: IpNet) -> bool {
    let within = |of: &[&str]| blocks(of).any(|of| of.contains(&block));
    within(&PRIVATE) && !within(&METADATA)
}

/// A block of IPv4 as a translator of IPv6 offers it, for pods that have no IPv4: below 64:ff9b::/96 (RFC 6052).
fn translated(block: &IpNet) -> Option<IpNet> {
    let IpNet::V4(block) = block else {
        return None;
    };
    let [a, b, c, d] = block.network().octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let ip = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
    let translated = Ipv6Net::new(ip, 96 + block.prefix_len()).ok()?;
    Some(IpNet::V6(translated))
}

/// A block without the addresses of another one.
fn without(block: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&block) {
        return Vec::new();
    }
    if !block.contains(&hole) {
        return vec![block];
    }
    let halves = block.subnets(block.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

/// The addresses that no name below a wildcard leads to: those that are not public, but for the private ones that an object opens.
pub(crate) fn undialed<'a>(private: impl IntoIterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let all = blocks(&PRIVATE).chain(blocks(&SPECIAL)).collect();
    let mut left = private.into_iter().fold(all, |left: Vec<IpNet>, hole| {
        left.into_iter().flat_map(|of| without(of, *hole)).collect()
    });
    let covered = |block: &IpNet, by: &[IpNet]| by.iter().any(|of| of.contains(block));
    let metadata: Vec<_> = blocks(&METADATA).filter(|of| !covered(of, &left)).collect();
    left.extend(metadata);
    let translated: Vec<IpNet> = left.iter().filter_map(translated).collect();
    left.into_iter().chain(translated).collect()
}

/// How an application speaks to an external host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExternalProtocol {
    /// HTTP without TLS: `Host` names the host.
    Http,
    /// TLS that passes as it is: the SNI names the host.
    Tls,
}

/// A host at one port, as an object declares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalHost {
    /// The name that callers use, and that DNS is asked for; or `*.` and the end of all names that do.
    pub(crate) host: Arc<str>,
    pub(crate) port: Port,
    pub(crate) protocol: ExternalProtocol,
    /// The TLS of the sidecar. None: bytes leave as the application sends them.
    pub(crate) tls: Option<ExternalTls>,
    /// The private addresses to which names below a wildcard may lead.
    pub(crate) private: Arc<[IpNet]>,
    /// The `ExternalService` that declares it.
    pub(crate) object: ObjectRef,
    /// How it is called. None: as without a policy.
    pub(crate) policy: Option<Arc<HostPolicy>>,
}

/// The policies for calls to a host outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPolicy {
    /// How requests are sent; of HTTP alone.
    pub(crate) requests: RoutePolicy,
    /// The changes of headers; of HTTP alone.
    pub(crate) headers: HeaderPolicy,
    /// The bounds on connections and requests to the host, and its ejection.
    pub(crate) upstream: UpstreamPolicy,
    /// How long a connection is kept without a request. None: as without a policy.
    pub(crate) idle_timeout: Option<Duration>,
    /// The objects that set the policy.
    pub(crate) objects: BTreeSet<ObjectRef>,
}

/// TLS from the sidecar to a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalTls {
    /// The port that is dialed.
    pub(crate) port: Port,
    /// The certificates of the authorities, in PEM. None: those of the sidecar's image.
    pub(crate) authorities: Option<Arc<str>>,
}

impl ExternalHost {
    /// `dst|<host>:<port>|<namespace>/<name>`: a sidecar asks for the cluster on demand, when the host is called. With TLS of the sidecar,
    /// or private addresses, a digest follows: routes and cluster change together, and no request for TLS meets a cluster of before.
    pub(crate) fn cluster_name(&self) -> Arc<str> {
        let ObjectRef {
            namespace, name, ..
        } = &self.object;
        let Self { host, port, .. } = self;
        let plain = format!("dst|{host}:{port}|{namespace}/{name}");
        if self.tls.is_none() && self.private.is_empty() {
            return plain.into();
        }
        let mut digest = Sha256::new();
        if let Some(tls) = &self.tls {
            let authorities = tls.authorities.as_deref().unwrap_or_default();
            digest.update(format!("{}\n{authorities}", tls.port));
        }
        for block in &*self.private {
            digest.update(format!("\n{block}"));
        }
        let digest = digest.finalize();
        let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("{plain}|{digest}").into()
    }

    /// The end of all names, with a dot before it, if the host is a wildcard.
    pub(crate) fn below(&self) -> Option<&str> {
        self.host.strip_prefix('*')
    }

    /// Whether it is the host of a name in lower case.
    pub(crate) fn names(&self, name: &str) -> bool {
        match self.below() {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => *self.host == *name,
        }
    }

    /// The objects of the host: the one that declares it, and its policies.
    pub(crate) fn origins(&self) -> BTreeSet<ObjectRef> {
        let policies = self.policy.iter().flat_map(|policy| &policy.objects);
        policies.chain([&self.object]).cloned().collect()
    }

    /// The name of its routes: the host, and its policies.
    pub(crate) fn route_name(&self) -> String {
        let policies = self.policy.iter().flat_map(|policy| &policy.objects);
        policies.fold(self.host.to_string(), |name, policy| {
            format!("{name}, {policy}")
        })
    }

    /// The port that the sidecar dials.
    pub(crate) fn dialed(&self) -> Port {
        self.tls.as_ref().map_or(self.port, |tls| tls.port)
    }
}

/// Addresses that callers may call at one port, by connections with an SNI or `Host` that no object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalAddresses {
    pub(crate) port: Port,
    pub(crate) block: IpNet,
    /// The `ExternalService` that declares it.
    pub(crate) object: ObjectRef,
}

/// All hosts that callers reach by name at one port. Each name has one meaning there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalPort {
    pub(crate) port: Port,
    /// Those that are called by HTTP, in the order of names.
    pub(crate) http: Vec<ExternalHost>,
    /// Those that are called by TLS, in the order of names.
    pub(crate) tls: Vec<ExternalHost>,
    /// The domain of the cluster, if a wildcard would take its names.
    pub(crate) inside: Option<Arc<str>>,
    /// The addresses of the mesh at this port: their connections go to the mesh, independently of a name in them.
    pub(crate) mesh: BTreeSet<IpAddr>,
}

impl ExternalPort {
    pub(crate) fn origins(&self) -> BTreeSet<ObjectRef> {
        let hosts = self.http.iter().chain(&self.tls);
        hosts.map(|host| host.object.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_hole_leaves_the_rest_of_its_block() {
        for (block, hole, rest) in [
            ("10.0.0.0/8", "11.0.0.0/8", vec!["10.0.0.0/8"]),
            ("10.0.0.0/8", "10.0.0.0/8", vec![]),
            ("10.1.0.0/16", "10.0.0.0/8", vec![]),
            (
                "10.0.0.0/8",
                "10.64.0.0/10",
                vec!["10.0.0.0/10", "10.128.0.0/9"],
            ),
            ("fc00::/7", "fd00::/9", vec!["fc00::/8", "fd80::/9"]),
            ("fc00::/7", "10.0.0.0/8", vec!["fc00::/7"]),
        ] {
            let left = without(block.parse().unwrap(), hole.parse().unwrap());
            assert_eq!(left, blocks(&rest), "{block} without {hole}");
        }
    }

    #[test]
    fn no_opened_block_leads_to_the_metadata_of_a_cloud() {
        let metadata = METADATA
            .iter()
            .chain(&["169.254.169.254/32", "fe80::a9fe:a9fe/128"]);
        let metadata: Vec<&str> = metadata.copied().collect();
        for private in [
            &[][..],
            &["fc00::/7"],
            &["fd00::/16", "100.64.0.0/10"],
            &PRIVATE,
        ] {
            let undialed = undialed(&blocks(private));
            for address in blocks(&metadata) {
                let translated = translated(&address);
                for address in [Some(address), translated].into_iter().flatten() {
                    let dropped = undialed.iter().any(|block| block.contains(&address));
                    assert!(dropped, "{address} with {private:?} opened");
                }
            }
        }
    }

    #[test]
    fn only_private_blocks_can_be_opened() {
        for text in ["10.20.0.0/16", "100.64.0.0/10", "fd12::/16"] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        let closed = [
            "100.100.100.200/32",
            "fd00:ec2::254/128",
            "0.0.0.0/0",
            "127.0.0.0/8",
            "169.254.169.254/32",
            "8.8.8.0/24",
            "8.0.0.0/5",
            "::1/128",
        ];
        for text in closed {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
        // All constants are blocks.
        for text in PRIVATE.iter().chain(&SPECIAL) {
            assert!(
                text.parse::<IpNet>()
                    .is_ok_and(|block| block.trunc() == block),
                "{text}"
            );
        }
    }
}
