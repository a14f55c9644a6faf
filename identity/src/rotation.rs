//! When a certificate is renewed. Pure: the caller passes the time and a random number.

use std::time::{Duration, SystemTime};

/// A random number from 0 to 1, so that pods started together don't renew together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter: the latest moment.
    pub const NONE: Self = Self(0.0);

    /// Clamped into 0 to 1; NaN counts as 0.
    pub fn new(share: f64) -> Self {
        Self(if share.is_nan() {
            0.0
        } else {
            share.clamp(0.0, 1.0)
        })
    }

    /// The share.
    pub fn share(self) -> f64 {
        self.0
    }
}

/// A certificate's life by the caller's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationPlan {
    issued: SystemTime,
    expires: SystemTime,
}

/// Renewed at the latest when two thirds of life are over: a third is left for an outage of the control plane.
const LATEST: f64 = 2.0 / 3.0;
/// The longest sleep between two looks at the clock: on a machine that was suspended, or after the clock was set, a renewal is late by no more.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Jitter only ever renews earlier.
const SPREAD: f64 = 0.1;

impl RotationPlan {
    /// From when it was received until when it ends.
    pub fn new(issued: SystemTime, expires: SystemTime) -> Self {
        Self {
            issued,
            expires: expires.max(issued),
        }
    }

    /// When the certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// When to begin asking for the next certificate.
    pub fn renew_at(&self, jitter: Jitter) -> SystemTime {
        let life = self.expires.duration_since(self.issued).unwrap_or_default();
        let wait = life.mul_f64(LATEST - SPREAD * jitter.share());
        self.issued.checked_add(wait).unwrap_or(self.expires)
    }

    /// The time to sleep before the next look at the clock. None: the renewal is due, also when the clock has jumped past the end.
    pub fn sleep(&self, now: SystemTime, jitter: Jitter) -> Option<Duration> {
        let wait = self.wait(now, jitter);
        (!wait.is_zero()).then_some(wait.min(LONGEST_SLEEP))
    }

    fn wait(&self, now: SystemTime, jitter: Jitter) -> Duration {
        // A clock set back must not stretch the wait beyond that of the whole life.
        self.renew_at(jitter)
            .duration_since(now.max(self.issued))
            .unwrap_or_default()
    }

    /// Whether the certificate is over.
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_falls_where_it_should() {
        let t0 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = |s| t0 + Duration::from_secs(s);
        let plan = RotationPlan::new(t0, at(3000));
        for (now, jitter, want) in [
            (t0, 0.0, 2000),
            (t0, 1.0, 1700),
            (t0, 7.0, 1700),
            (t0, -1.0, 2000),
            (t0, f64::NAN, 2000),
            (at(500), 0.5, 1350),
            (at(2000), 0.0, 0),
            (at(9000), 0.0, 0),
            (t0 - Duration::from_secs(86_400), 0.0, 2000),
        ] {
            let jitter = Jitter::new(jitter);
            assert_eq!(plan.wait(now, jitter).as_secs(), want, "{now:?} {jitter:?}");
            // The clock may be set during the sleep.
            let sleep = (want > 0).then_some(Duration::from_secs(60));
            assert_eq!(plan.sleep(now, jitter), sleep, "{now:?} {jitter:?}");
        }
        assert!(!plan.expired(at(2999)) && plan.expired(at(3000)));
    }

    #[test]
    fn a_life_that_ends_before_it_begins_is_due_at_once() {
        let t0 = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let plan = RotationPlan::new(t0, SystemTime::UNIX_EPOCH);
        assert_eq!(plan.sleep(t0, Jitter::NONE), None);
    }
}
