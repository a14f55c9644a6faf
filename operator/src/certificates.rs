//! The times of the newest certificate of each pod, for people: which one a sidecar had last, and when it ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use heddle_policy_compiler::PodRef;
use heddle_xds_types::CertificateTimes;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Below this number of pods, expired entries stay.
const FEW: usize = 1024;

/// The certificates that this replica issued, or with which a sidecar opened its stream here: of a pod the one that ends last.
/// Entries of ended pods go when their certificates have expired.
#[derive(Debug, Default)]
pub struct Certificates(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_pod: BTreeMap<PodRef, CertificateTimes>,
    /// The number of pods at which expired entries are dropped.
    sweep_at: usize,
}

impl Certificates {
    /// Records a certificate of a pod. An older one than the known one does not count.
    pub fn record(&self, pod: &PodRef, times: CertificateTimes) {
        let mut known = self.lock();
        let newest = known.by_pod.get(pod).map_or(0, |of| of.not_after);
        if times.not_after < newest {
            return;
        }
        known.by_pod.insert(pod.clone(), times);
        if known.by_pod.len() > known.sweep_at.max(FEW) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |since| since.as_secs());
            known.by_pod.retain(|_, of| of.not_after > now);
            known.sweep_at = known.by_pod.len().saturating_mul(2);
        }
    }

    /// The times of the newest known certificate of a pod.
    #[must_use]
    pub fn of(&self, pod: &PodRef) -> Option<CertificateTimes> {
        self.lock().by_pod.get(pod).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of a certificate that TLS has verified. `None`: it cannot be parsed.
#[must_use]
pub fn times_of(certificate: &CertificateDer<'_>) -> Option<CertificateTimes> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
    Some(CertificateTimes {
        not_before: seconds(validity.not_before.timestamp()),
        not_after: seconds(validity.not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_that_ends_last_counts_and_expired_ones_make_room() {
        let certificates = Certificates::default();
        let times = |not_after| CertificateTimes {
            not_before: 1,
            not_after,
        };
        let pod = |n: usize| PodRef::new("shop", &format!("cart-{n}"));
        let cart = pod(0);
        assert_eq!(certificates.of(&cart), None);
        for (recorded, expected) in [(50, 50), (70, 70), (60, 70)] {
            certificates.record(&cart, times(recorded));
            assert_eq!(certificates.of(&cart), Some(times(expected)));
        }
        for n in 1..=FEW {
            certificates.record(&pod(n), times(u64::MAX));
        }
        assert_eq!(certificates.of(&cart), None, "it has expired");
        assert_eq!(certificates.of(&pod(1)), Some(times(u64::MAX)));
    }
}
