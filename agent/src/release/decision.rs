//! The decision when the application may end: without I/O.

use std::time::{Duration, Instant};

use heddle_xds_types::rollout::{ReleaseReason, WithdrawalReport};

use crate::admin::Inbound;

/// From the removal of the pod on, callers outside the mesh need this long: kube-proxy writes its rules once a second.
const LEAST: Duration = Duration::from_millis(1500);
/// Without an answer of the control plane. Endpoints of a pod that stops reach all callers well within this time.
const FALLBACK: Duration = Duration::from_secs(5);
/// However long the pod may take to end.
const MOST: Duration = Duration::from_secs(15);
/// Of the time that the pod has to end, the application keeps at least two thirds.
const SHARE: u32 = 3;

/// The bounds of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    least: Duration,
    fallback: Duration,
    most: Duration,
}

impl Bounds {
    /// By `terminationGracePeriodSeconds` of the pod.
    pub(crate) fn of(grace: Duration) -> Self {
        let most = (grace / SHARE).min(MOST);
        Self {
            least: LEAST.min(most),
            fallback: FALLBACK.min(most),
            most,
        }
    }
}

/// The facts about the end of the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// The newest answer of the control plane, and when it came. `None`: no stream is open, or none has answered.
    pub(crate) withdrawal: Option<(WithdrawalReport, Instant)>,
    /// The last stream that ended had failed: of interest without an answer alone. Until then, a control plane that is slow to answer is
    /// waited for.
    pub(crate) unreachable: bool,
    /// The traffic of callers. `None`: Envoy does not say.
    pub(crate) inbound: Option<Inbound>,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait until then, or until a fact changes.
    Wait(Instant),
    /// The application may end.
    Release(ReleaseReason),
}

impl Bounds {
    /// Decides for a hook that was called at `asked`.
    pub(crate) fn step(&self, asked: Instant, now: Instant, known: &Known) -> Step {
        let (fallback, most) = (asked + self.fallback, asked + self.most);
        let until = |end: Instant, reason| match now >= end {
            true => Step::Release(reason),
            false => Step::Wait(end),
        };
        let Some((withdrawal, came)) = &known.withdrawal else {
            let end = if known.unreachable { fallback } else { most };
            return until(end, ReleaseReason::NoControlPlane);
        };
        if !withdrawal.terminating {
            // The control plane may learn of it later than the kubelet.
            return until(fallback, ReleaseReason::NotTerminating);
        }
        if withdrawal.complete && withdrawal.services == 0 {
            return Step::Release(ReleaseReason::NoService);
        }
        let since = |ago_ms: Option<u64>| {
            let ago = ago_ms.map(Duration::from_millis)?;
            Some(came.checked_sub(ago).unwrap_or(asked).max(asked))
        };
        let Some(withdrawn) = since(withdrawal.withdrawn_ago_ms) else {
            return until(most, ReleaseReason::TimeOver);
        };
        let missing = withdrawal.total.saturating_sub(withdrawal.acknowledged);
        if missing == 0 && withdrawal.away > 0 && now >= fallback {
            // Only such are missing as have no stream to any replica: they may never come back.
            return Step::Release(ReleaseReason::TimeOver);
        }
        if !withdrawal.complete {
            let end = if missing == 0 && withdrawal.away > 0 {
                fallback
            } else {
                most
            };
            return until(end, ReleaseReason::TimeOver);
        }
        // An Envoy acknowledges on its main thread, and its workers take the change some time later: no longer than the slowest
        // acknowledgment took, by experience with starved processors.
        let completed = since(withdrawal.completed_ago_ms).unwrap_or(withdrawn);
        let slowest = completed.saturating_duration_since(withdrawn);
        let least = (withdrawn + self.least.max(slowest * 2)).min(most);
        if now < least {
            return Step::Wait(least);
        }
        // An application that ends at once would cut them. Whether an exchange of bytes is over is not to be seen: it has the time
        // that a busy machine needs, and no more, for a connection to a database stays open for days.
        let end = match known.inbound {
            Some(inbound) if inbound.active > 0 => most,
            Some(inbound) if inbound.bytes > 0 => (withdrawn + self.fallback).min(most),
            Some(_) | None => return Step::Release(ReleaseReason::Acknowledged),
        };
        until(end, ReleaseReason::Acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDING: WithdrawalReport = WithdrawalReport {
        terminating: true,
        services: 1,
        withdrawn_ago_ms: None,
        total: 3,
        acknowledged: 0,
        away: 0,
        complete: false,
        completed_ago_ms: None,
    };
    const WITHDRAWN: WithdrawalReport = WithdrawalReport {
        withdrawn_ago_ms: Some(0),
        acknowledged: 2,
        ..ENDING
    };
    const ACKNOWLEDGED: WithdrawalReport = WithdrawalReport {
        acknowledged: 3,
        complete: true,
        completed_ago_ms: Some(0),
        ..WITHDRAWN
    };

    /// The time of the release in milliseconds and its reason, if nothing new is known any more. The answer came after 100 ms.
    fn released(
        grace: u64,
        withdrawal: Option<WithdrawalReport>,
        inbound: Option<Inbound>,
    ) -> (u64, ReleaseReason) {
        let bounds = Bounds::of(Duration::from_secs(grace));
        let asked = Instant::now();
        let came = asked + Duration::from_millis(100);
        let known = Known {
            unreachable: withdrawal.is_none(),
            withdrawal: withdrawal.map(|withdrawal| (withdrawal, came)),
            inbound,
        };
        let mut now = came;
        loop {
            match bounds.step(asked, now, &known) {
                Step::Wait(until) => {
                    assert!(until > now, "it would spin");
                    now = until;
                }
                Step::Release(reason) => {
                    let waited = (now - asked).as_millis();
                    return (waited.try_into().unwrap(), reason);
                }
            }
        }
    }

    #[test]
    fn the_application_may_end_once_every_caller_has_acknowledged() {
        use ReleaseReason::{Acknowledged, NoControlPlane, NoService, NotTerminating, TimeOver};
        let away = WithdrawalReport {
            away: 1,
            complete: false,
            ..ACKNOWLEDGED
        };
        let earlier = WithdrawalReport {
            withdrawn_ago_ms: Some(60_000),
            ..ACKNOWLEDGED
        };
        let unserved = WithdrawalReport {
            services: 0,
            total: 0,
            acknowledged: 0,
            ..ACKNOWLEDGED
        };
        let open = |active, bytes| {
            let begun = 0;
            Some(Inbound {
                begun,
                active,
                bytes,
            })
        };
        for (grace, withdrawal, inbound, expected) in [
            // kube-proxy's time, from the removal on; an age before the hook counts from the hook.
            (30, Some(ACKNOWLEDGED), open(0, 0), (1600, Acknowledged)),
            (30, Some(ACKNOWLEDGED), None, (1600, Acknowledged)),
            (30, Some(earlier.clone()), open(0, 0), (1500, Acknowledged)),
            // Requests go on, at most for a third of the grace period.
            (30, Some(ACKNOWLEDGED), open(2, 0), (10_000, Acknowledged)),
            // Connections of bytes are waited for as long as for a control plane.
            (30, Some(ACKNOWLEDGED), open(0, 1), (5100, Acknowledged)),
            (30, Some(earlier), open(0, 1), (5000, Acknowledged)),
            (30, Some(ACKNOWLEDGED), open(1, 1), (10_000, Acknowledged)),
            (3, Some(ACKNOWLEDGED), open(0, 1), (1000, Acknowledged)),
            // One has not acknowledged; the configurations still have it.
            (30, Some(WITHDRAWN), open(0, 0), (10_000, TimeOver)),
            (30, Some(ENDING), open(0, 0), (10_000, TimeOver)),
            (30, Some(away), open(0, 0), (5000, TimeOver)),
            (30, Some(unserved), open(0, 0), (100, NoService)),
            (
                30,
                Some(WithdrawalReport::default()),
                None,
                (5000, NotTerminating),
            ),
            (30, None, open(7, 0), (5000, NoControlPlane)),
            // Short and long periods.
            (3, None, None, (1000, NoControlPlane)),
            (3, Some(ACKNOWLEDGED), open(0, 0), (1000, Acknowledged)),
            (3600, Some(WITHDRAWN), None, (15_000, TimeOver)),
            (3600, None, None, (5000, NoControlPlane)),
        ] {
            assert_eq!(
                released(grace, withdrawal.clone(), inbound),
                expected,
                "{grace} {withdrawal:?} {inbound:?}"
            );
        }
    }

    #[test]
    fn callers_that_were_slow_to_acknowledge_have_as_long_for_their_workers() {
        // Withdrawn `slow` ms ago, acknowledged now: 100 ms after the hook was called.
        for (slow, expected) in [(0, 1600), (80, 1520), (100, 1500)] {
            let quick = WithdrawalReport {
                withdrawn_ago_ms: Some(slow),
                ..ACKNOWLEDGED
            };
            assert_eq!(released(30, Some(quick), None).0, expected, "{slow}");
        }
        let bounds = Bounds::of(Duration::from_secs(30));
        let asked = Instant::now();
        let at = |ms| asked + Duration::from_millis(ms);
        for (came, slow, expected) in [(1500, 1400, 2900), (3000, 2500, 5500), (9000, 9000, 10_000)]
        {
            let late = WithdrawalReport {
                withdrawn_ago_ms: Some(slow),
                ..ACKNOWLEDGED
            };
            let known = Known {
                withdrawal: Some((late, at(came))),
                ..Known::default()
            };
            let step = bounds.step(asked, at(came), &known);
            assert_eq!(step, Step::Wait(at(expected)), "{came} {slow}");
        }
    }

    #[test]
    fn a_control_plane_that_is_slow_to_answer_is_waited_for() {
        let bounds = Bounds::of(Duration::from_secs(30));
        let asked = Instant::now();
        for (unreachable, expected) in [(false, 10), (true, 5)] {
            let known = Known {
                unreachable,
                ..Known::default()
            };
            let step = bounds.step(asked, asked, &known);
            let end = asked + Duration::from_secs(expected);
            assert_eq!(step, Step::Wait(end), "{unreachable}");
        }
    }

    #[test]
    fn a_replica_that_has_not_reported_is_waited_for() {
        let withdrawal = WithdrawalReport {
            complete: false,
            ..ACKNOWLEDGED
        };
        let (waited, reason) = released(30, Some(withdrawal), Some(Inbound::default()));
        assert_eq!((waited, reason), (10_000, ReleaseReason::TimeOver));
    }
}
