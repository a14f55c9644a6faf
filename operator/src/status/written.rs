//! The status of an object, as it is written to the API server.

use heddle_crds::{ConditionStatus, ConditionType, DesiredCondition, LastGood, condition, reason};
use heddle_policy_compiler::{ObjectKind, ObjectStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Tally;
use super::parents::{WrittenParent, next_conditions, next_parents};

/// The status of an object of any declared kind. Fields that a kind does not have stay empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenStatus {
    /// The generation that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In the order of [`ConditionType::ALL`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The last spec known to be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Whether the status on the API server has that spec, and not its generation only.
    #[serde(skip)]
    pub last_good_in_status: bool,
    /// `n/m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<String>,
    /// The entries of this control plane in `status.parents` or `status.ancestors`, of the kinds of other projects. They
    /// have no conditions of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<WrittenParent>,
    /// The fields that only the kind has.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

impl WrittenStatus {
    /// The status that follows. Equal to this one where nothing changed, times included.
    #[must_use]
    pub fn next(
        &self,
        kind: ObjectKind,
        compiled: &ObjectStatus,
        tally: Option<&Tally>,
        now: &Time,
    ) -> Self {
        let mut desired: Vec<DesiredCondition> = compiled.conditions.clone();
        if kind.is_policy() && compiled.condition(ConditionType::Programmed).is_none() {
            desired.push(programmed_condition(compiled, tally));
        }
        if let Some(tally) = tally {
            mark_enforced(&mut desired, tally);
        }
        let last_good = if kind.is_policy() {
            self.last_good(compiled, tally)
        } else {
            self.last_good_settings(compiled)
        };
        if kind.is_foreign() {
            return Self {
                parents: next_parents(&self.parents, compiled, &desired, now),
                last_good,
                ..Self::default()
            };
        }
        let generation = compiled.observed_generation;
        let all: Vec<&DesiredCondition> = desired.iter().collect();
        Self {
            observed_generation: Some(generation),
            conditions: next_conditions(&self.conditions, &all, generation, now),
            parents: Vec::new(),
            last_good,
            last_good_in_status: false,
            proxies: kind
                .is_policy()
                .then(|| tally.map_or_else(|| "0/0".to_owned(), |tally| tally.ratio(generation))),
            detail: compiled.detail.clone(),
        }
    }

    /// Of the settings no proxy is asked: they are good as soon as they are accepted.
    fn last_good_settings(&self, compiled: &ObjectStatus) -> Option<LastGood> {
        let accepted = compiled
            .condition(ConditionType::Accepted)
            .is_some_and(|condition| condition.status == ConditionStatus::True);
        let rejected = compiled.condition(ConditionType::Programmed).is_some();
        let present = compiled.in_force.as_ref().filter(|in_force| {
            accepted && !rejected && in_force.generation == compiled.observed_generation
        });
        present.or(self.last_good.as_ref()).cloned()
    }

    fn last_good(&self, compiled: &ObjectStatus, tally: Option<&Tally>) -> Option<LastGood> {
        let generation = compiled.observed_generation;
        let holds = |kind| {
            compiled
                .condition(kind)
                .is_none_or(|condition| condition.status == ConditionStatus::True)
        };
        let rejected = !holds(ConditionType::Programmed);
        // A rejection that is not verified makes nothing bad: it only keeps a spec from becoming the last good one.
        let doubted = tally.is_some_and(|tally| tally.unverified > 0);
        let before = self
            .last_good
            .clone()
            .filter(|before| !(rejected && before.generation == generation));
        let present = compiled
            .in_force
            .as_ref()
            .filter(|in_force| in_force.generation == generation);
        let sound = !rejected
            && !doubted
            && holds(ConditionType::Accepted)
            && holds(ConditionType::ResolvedRefs);
        // One proxy alone, of several, proves nothing; and one that rejects without reason prevents nothing.
        let half = |tally: &Tally| tally.total.saturating_sub(tally.unfounded).div_ceil(2);
        let proven = tally.is_some_and(|tally| {
            tally.generation == generation && tally.acknowledged >= half(tally).max(1)
        });
        // No proxy needs the object: the present spec is better than none, but does not replace one that a proxy
        // acknowledged.
        let untried = tally.is_none_or(|tally| tally.total == 0) && before.is_none();
        match present {
            Some(present) if sound && (proven || untried) => Some(present.clone()),
            Some(_) | None => before,
        }
    }
}

impl WrittenStatus {
    /// The status as it is on the API server.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!(self);
        if !self.last_good_in_status
            && let Some(Value::Object(good)) = body.get_mut("lastGood")
        {
            good.remove("json");
        }
        body
    }

    /// All conditions: those of the object, and those at its parents.
    pub fn all_conditions(&self) -> impl Iterator<Item = &Condition> {
        let parents = self.parents.iter().flat_map(|parent| &parent.conditions);
        self.conditions.iter().chain(parents)
    }

    /// The newest generation that the status is about; 0 if there is none.
    #[must_use]
    pub fn generation(&self) -> i64 {
        let observed = self.all_conditions().filter_map(|c| c.observed_generation);
        let good = self.last_good.as_ref().map(|good| good.generation);
        let all = observed.chain(self.observed_generation).chain(good);
        all.max().unwrap_or_default()
    }

    /// Whether every proxy that needed this generation ran it when the status was written.
    #[must_use]
    pub fn is_programmed(&self, generation: i64) -> bool {
        let conditions = self.parents.first().map(|parent| &parent.conditions);
        let conditions = conditions.unwrap_or(&self.conditions);
        let programmed = condition(conditions, ConditionType::Programmed);
        programmed.is_some_and(|programmed| {
            programmed.status == ConditionStatus::True.as_str()
                && programmed.reason == reason::PROGRAMMED
                && programmed.observed_generation == Some(generation)
        })
    }
}

fn programmed_condition(compiled: &ObjectStatus, tally: Option<&Tally>) -> DesiredCondition {
    let condition = |status: bool, reason: &str, message: String| DesiredCondition {
        kind: ConditionType::Programmed,
        status: ConditionStatus::from(status),
        reason: reason.to_owned(),
        message,
        generation: None,
    };
    let present = compiled
        .in_force
        .as_ref()
        .is_some_and(|in_force| in_force.generation == compiled.observed_generation);
    if !present && let Some(bad) = bad_news(compiled) {
        let instead = compiled.in_force.as_ref().map_or_else(
            || "nothing of it is in force".to_owned(),
            |last| format!("generation {} stays in force", last.generation),
        );
        return condition(false, &bad.reason, format!("{instead}; {}", bad.message));
    }
    let Some(tally) = tally.filter(|tally| tally.total > 0) else {
        return condition(
            true,
            reason::NO_SUBSCRIBERS,
            "no ready pod with a sidecar needs it".to_owned(),
        );
    };
    let ratio = tally.ratio(compiled.observed_generation);
    if let Some(rejection) = tally.rejections.first() {
        let message = format!(
            "{ratio} proxies run it; {} rejects {} and reports {:?}; the rejection is not verified and counts for that proxy only",
            rejection.proxy, rejection.resource, rejection.text
        );
        return condition(false, reason::REJECTED_BY_PROXY, message);
    }
    if tally.acknowledged == tally.total && tally.generation == compiled.observed_generation {
        return condition(
            true,
            reason::PROGRAMMED,
            format!("{ratio} proxies run generation {}", tally.generation),
        );
    }
    condition(
        false,
        reason::PENDING,
        format!("{ratio} proxies run it; waiting for {}", tally.laggards()),
    )
}

/// Sets `Enforced` to False where ready proxies reject the compiled rules, for those proxies keep the rules of before, and to Unknown
/// where some have not acknowledged them yet.
fn mark_enforced(desired: &mut [DesiredCondition], tally: &Tally) {
    let rejecting = tally.unfounded + tally.unverified;
    // Where the rules decide in part only, they are rejected nevertheless.
    let others = [reason::AUDIT, reason::DENIED, reason::LAST_GOOD];
    let enforced = desired.iter_mut().find(|condition| {
        condition.kind == ConditionType::Enforced && !others.contains(&condition.reason.as_str())
    });
    let Some(enforced) = enforced else { return };
    if rejecting > 0 {
        enforced.status = ConditionStatus::False;
        enforced.reason = reason::NOT_ENFORCED_EVERYWHERE.to_owned();
        enforced.message = format!(
            "{}; {rejecting} of {} proxies reject generation {} and keep what they had before",
            enforced.message, tally.total, tally.generation
        );
    } else if tally.acknowledged < tally.total && enforced.status == ConditionStatus::True {
        enforced.status = ConditionStatus::Unknown;
        enforced.reason = reason::PENDING.to_owned();
        enforced.message = format!(
            "{}; {} of {} proxies run generation {}, the others what they had before",
            enforced.message, tally.acknowledged, tally.total, tally.generation
        );
    }
}

/// Whether the last good spec, or the labels kept with it, may be in force in place of those of the present spec.
#[must_use]
pub fn needs_last_good(compiled: &ObjectStatus) -> bool {
    let of_spec = [
        ConditionType::Accepted,
        ConditionType::ResolvedRefs,
        ConditionType::Programmed,
    ];
    let mut conditions = of_spec.iter().filter_map(|kind| compiled.condition(*kind));
    let fallen_back = compiled.condition(ConditionType::PartiallyInvalid);
    fallen_back.is_some() || conditions.any(|c| c.status != ConditionStatus::True)
}

/// The first condition with a reason why the present spec is not in force.
fn bad_news(compiled: &ObjectStatus) -> Option<&DesiredCondition> {
    let bad = |condition: &&DesiredCondition| match condition.status {
        ConditionStatus::True => !condition.kind.positive(),
        ConditionStatus::False => condition.kind.positive(),
        ConditionStatus::Unknown => false,
    };
    compiled.conditions.iter().find(bad)
}
