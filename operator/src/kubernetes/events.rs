//! Kubernetes Events for conditions that turn bad, so that `kubectl describe` and `kubectl get events` show them with their time.
//! Bounded in rate: conditions are the truth, Events only point at them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use heddle_crds::{ConditionStatus, ConditionType, reason};
use heddle_policy_compiler::ObjectRef;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::call;
use crate::status::WrittenStatus;
use crate::tasks::chain;

/// So many Events at once ...
const BURST: u32 = 20;
/// ... and one more for each of these.
const REFILL: Duration = Duration::from_secs(3);
/// The API takes 1,024 bytes.
const MAX_NOTE: usize = 1000;

/// Returns a recorder of Events that name this pod of the operator as their source.
pub(super) fn recorder(client: Client, pod: &str) -> Recorder {
    let reporter = Reporter {
        controller: "heddle-operator".to_owned(),
        instance: Some(pod.to_owned()),
    };
    Recorder::new(client, reporter)
}

/// Publishes Events.
pub(super) struct Announcer {
    recorder: Recorder,
    budget: Budget,
}

impl Announcer {
    pub(super) fn new(client: Client, pod: &str) -> Self {
        Self {
            recorder: recorder(client, pod),
            budget: Budget::new(Instant::now()),
        }
    }

    /// Publishes the conditions that turned bad between two statuses of an object. A failure is logged: the condition has the same content.
    pub(super) async fn announce(
        &mut self,
        object: &ObjectRef,
        uid: Option<String>,
        before: &WrittenStatus,
        after: &WrittenStatus,
    ) {
        for condition in turned_bad(before, after) {
            if !self.budget.take(Instant::now()) {
                tracing::debug!(%object, reason = condition.reason, "Event dropped: too many Events");
                continue;
            }
            let event = Event {
                type_: EventType::Warning,
                reason: condition.reason.clone(),
                note: Some(note(condition)),
                action: condition.type_.clone(),
                secondary: None,
            };
            let namespace = Some(object.namespace.to_string()).filter(|name| !name.is_empty());
            let reference = ObjectReference {
                api_version: object.kind.resource().map(|r| r.api_version()),
                kind: Some(object.kind.api_kind().to_owned()),
                name: Some(object.name.to_string()),
                namespace,
                uid: uid.clone(),
                ..ObjectReference::default()
            };
            if let Err(error) = call(self.recorder.publish(&event, &reference)).await {
                tracing::warn!(error = chain(&error), %object, "an Event could not be published");
            }
        }
    }
}

/// The conditions that are bad now and were not, or for another reason. That sidecars have not acknowledged a change yet is not
/// bad: it follows every change.
fn turned_bad<'a>(
    before: &'a WrittenStatus,
    after: &'a WrittenStatus,
) -> impl Iterator<Item = &'a Condition> {
    let known = |new: &Condition| {
        let same = |old: &Condition| {
            (&old.type_, &old.status, &old.reason) == (&new.type_, &new.status, &new.reason)
        };
        before.all_conditions().any(same)
    };
    let bad = after.all_conditions().filter(|condition| is_bad(condition));
    // The parents of a route share conditions.
    let mut seen = BTreeSet::new();
    let once = bad.filter(move |c| seen.insert((&c.type_, &c.reason, &c.message)));
    once.filter(|condition| condition.reason != reason::PENDING)
        .filter(move |condition| !known(condition))
}

fn is_bad(condition: &Condition) -> bool {
    let kind = ConditionType::ALL
        .iter()
        .find(|kind| kind.as_str() == condition.type_);
    let good = ConditionStatus::from(kind.is_some_and(|kind| kind.positive()));
    kind.is_some()
        && condition.status != good.as_str()
        && condition.status != ConditionStatus::Unknown.as_str()
}

fn note(condition: &Condition) -> String {
    shortened(format!(
        "{}={}: {}",
        condition.type_, condition.status, condition.message
    ))
}

/// Cuts the note of an Event to the length that the API takes.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > MAX_NOTE {
        text.truncate(text.floor_char_boundary(MAX_NOTE));
        text.push_str("...");
    }
    text
}

/// A bucket of tokens.
struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.duration_since(self.filled) >= REFILL {
            self.left += 1;
            self.filled += REFILL;
        }
        if self.left == BURST {
            self.filled = now;
        }
        let there = self.left > 0;
        self.left = self.left.saturating_sub(1);
        there
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> WrittenStatus {
        let conditions = conditions.iter().map(|(kind, status, reason)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "é".repeat(600),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        WrittenStatus {
            conditions: conditions.collect(),
            ..WrittenStatus::default()
        }
    }

    #[test]
    fn an_event_reports_only_conditions_that_turned_bad() {
        let good = ("Accepted", "True", "Accepted");
        let cases: [(&[_], &[_], &[&str]); 8] = [
            (&[], &[good], &[]),
            (&[good], &[("Accepted", "False", "Invalid")], &["Invalid"]),
            (&[], &[("Accepted", "False", "Invalid")], &["Invalid"]),
            (
                &[("Accepted", "False", "Invalid")],
                &[("Accepted", "False", "Invalid")],
                &[],
            ),
            (
                &[("Programmed", "False", "Pending")],
                &[("Programmed", "False", "RejectedByProxy")],
                &["RejectedByProxy"],
            ),
            (
                &[("Programmed", "True", "Programmed")],
                &[("Programmed", "False", "Pending")],
                &[],
            ),
            (
                &[("Conflicted", "False", "NoConflict")],
                &[("Conflicted", "True", "Conflict")],
                &["Conflict"],
            ),
            (
                &[("Conflicted", "True", "Conflict")],
                &[("Conflicted", "False", "NoConflict")],
                &[],
            ),
        ];
        for (before, after, expected) in cases {
            let (before, after) = (status(before), status(after));
            let told: Vec<&str> = turned_bad(&before, &after)
                .map(|c| c.reason.as_str())
                .collect();
            assert_eq!(told, expected, "{after:?}");
            assert!(after.conditions.iter().all(|c| note(c).len() <= 1024));
        }
    }

    #[test]
    fn events_are_bounded_in_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut take = |seconds, tries: u32| {
            let at = start + Duration::from_secs(seconds);
            (0..tries).filter(|_| budget.take(at)).count()
        };
        assert_eq!(
            [take(0, 30), take(2, 5), take(3, 5), take(9, 5)],
            [20, 0, 1, 2]
        );
        assert_eq!(take(3600, 50), 20);
    }
}
