//! The owners of addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use crate::world::{NamespacedName, PodRef};

/// Something with an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    Service(NamespacedName),
    Pod(PodRef),
    /// A pod that is being deleted. Its address may be another pod's already, while the API still shows the old one.
    TerminatingPod(PodRef),
}

/// Pod or pods at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodsAt<'a> {
    None,
    One(&'a PodRef),
    /// Several share it: pods of the host's network, or the address has just moved.
    Several,
}

/// Almost always there is one claim, so that one needs no room of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claims {
    One(Claim),
    Several(Arc<BTreeSet<Claim>>),
}

/// Every address of a service or a living pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses(OrdMap<IpAddr, Claims>);

impl Addresses {
    pub(crate) fn add(&mut self, ip: IpAddr, claim: Claim) {
        let claims = match self.0.get(&ip) {
            None => Claims::One(claim),
            Some(Claims::One(known)) => {
                Claims::Several(Arc::new(BTreeSet::from([known.clone(), claim])))
            }
            Some(Claims::Several(known)) => {
                Claims::Several(Arc::new(known.iter().cloned().chain([claim]).collect()))
            }
        };
        self.0.insert(ip, claims);
    }

    pub(crate) fn remove(&mut self, ip: IpAddr, claim: &Claim) {
        let left: BTreeSet<Claim> = self.claims(ip).filter(|c| *c != claim).cloned().collect();
        let mut left = left.into_iter();
        match (left.next(), left.len()) {
            (None, _) => {
                self.0.remove(&ip);
            }
            (Some(only), 0) => {
                self.0.insert(ip, Claims::One(only));
            }
            (Some(first), _) => {
                let all = std::iter::once(first).chain(left).collect();
                self.0.insert(ip, Claims::Several(Arc::new(all)));
            }
        }
    }

    fn claims(&self, ip: IpAddr) -> impl DoubleEndedIterator<Item = &Claim> {
        let (one, several) = match self.0.get(&ip) {
            None => (None, None),
            Some(Claims::One(claim)) => (Some(claim), None),
            Some(Claims::Several(claims)) => (None, Some(claims)),
        };
        one.into_iter()
            .chain(several.into_iter().flat_map(|claims| claims.iter()))
    }

    /// The services that claim an address, the last by name first: that one has it.
    pub(crate) fn services(&self, ip: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.claims(ip).rev().filter_map(|claim| match claim {
            Claim::Service(name) => Some(name),
            Claim::Pod(_) | Claim::TerminatingPod(_) => None,
        })
    }

    /// Returns the pod that has an address. Pods of the host's network share theirs, so the owner of a port cannot be told.
    pub(crate) fn pod(&self, ip: IpAddr) -> Option<&PodRef> {
        match self.pods_at(ip) {
            PodsAt::One(pod) => Some(pod),
            PodsAt::None | PodsAt::Several => None,
        }
    }

    /// The living pods that have an address; a terminating one only where there is no other.
    pub(crate) fn pods_at(&self, ip: IpAddr) -> PodsAt<'_> {
        let staying = self.claims(ip).filter_map(|claim| match claim {
            Claim::Pod(name) => Some(name),
            Claim::Service(_) | Claim::TerminatingPod(_) => None,
        });
        let terminating = self.claims(ip).filter_map(|claim| match claim {
            Claim::TerminatingPod(name) => Some(name),
            Claim::Service(_) | Claim::Pod(_) => None,
        });
        match only(staying) {
            PodsAt::None => only(terminating),
            found @ (PodsAt::One(_) | PodsAt::Several) => found,
        }
    }

    /// Every living pod that has an address, terminating or not.
    pub(crate) fn all_pods(&self, ip: IpAddr) -> impl Iterator<Item = &PodRef> {
        self.claims(ip).filter_map(|claim| match claim {
            Claim::Pod(name) | Claim::TerminatingPod(name) => Some(name),
            Claim::Service(_) => None,
        })
    }

    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.keys().copied()
    }
}

fn only<'a>(mut pods: impl Iterator<Item = &'a PodRef>) -> PodsAt<'a> {
    match (pods.next(), pods.next()) {
        (None, _) => PodsAt::None,
        (Some(pod), None) => PodsAt::One(pod),
        (Some(_), Some(_)) => PodsAt::Several,
    }
}
