mod fall_back;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{ConditionStatus, ConditionType, DesiredCondition, LastGood, condition, reason};
use heddle_policy_compiler::{ObjectKind, ObjectRef, ObjectStatus, PodRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::scope::Scopes;
use crate::serving::MeshSource;
use crate::snapshot::Snapshot;
use crate::test_snapshots::WORLD;
use crate::trials::Trials;

fn object() -> ObjectRef {
    ObjectRef::new(ObjectKind::AuthPolicy, "shop", "callers")
}

fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap())
}

/// A valid object of which this generation is in force; 0 for none.
fn compiled(observed: i64, in_force: i64) -> ObjectStatus {
    let condition = |kind| DesiredCondition {
        kind,
        status: ConditionStatus::True,
        reason: kind.to_string(),
        message: String::new(),
        generation: None,
    };
    ObjectStatus {
        observed_generation: observed,
        conditions: vec![
            condition(ConditionType::Accepted),
            condition(ConditionType::ResolvedRefs),
        ],
        in_force: (in_force > 0).then(|| LastGood {
            generation: in_force,
            spec: json!({"of": in_force}),
            selected: None,
        }),
        ..ObjectStatus::default()
    }
}

fn rejected(observed: i64, in_force: i64) -> ObjectStatus {
    let mut status = compiled(observed, in_force);
    status.conditions.push(DesiredCondition {
        kind: ConditionType::Programmed,
        status: ConditionStatus::False,
        reason: reason::REJECTED_BY_PROXY.to_owned(),
        message: "missing )".to_owned(),
        generation: None,
    });
    status
}

fn tally(generation: i64, acknowledged: u32, total: u32) -> Tally {
    let waiting = (acknowledged..total)
        .map(|n| format!("shop/pod-{n}"))
        .take(NAMED)
        .collect();
    Tally {
        generation,
        acknowledged,
        total,
        waiting,
        ..Tally::default()
    }
}

fn report(tally: Tally) -> ProxyCounts {
    ProxyCounts {
        objects: BTreeMap::from([(object_key(&object()), tally)]),
        ..ProxyCounts::default()
    }
}

fn programmed(status: &WrittenStatus) -> (String, String, String) {
    let condition = condition(&status.conditions, ConditionType::Programmed).unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn next(
    before: &WrittenStatus,
    compiled: &ObjectStatus,
    tally: Option<&Tally>,
    seconds: i64,
) -> WrittenStatus {
    before.next(ObjectKind::AuthPolicy, compiled, tally, &at(seconds))
}

#[test]
fn programmed_follows_the_acknowledgments_of_proxies() {
    let rejection = Tally {
        rejections: vec![ProxyRejection {
            proxy: "shop/a".into(),
            resource: "rds:in|80".into(),
            text: "missing )".into(),
        }],
        unverified: 1,
        ..tally(1, 1, 2)
    };
    let cases: [(Option<Tally>, &str, &str, &str); 6] = [
        (None, "True", reason::NO_SUBSCRIBERS, "0/0"),
        (Some(tally(1, 2, 2)), "True", reason::PROGRAMMED, "2/2"),
        (Some(tally(1, 1, 2)), "False", reason::PENDING, "shop/pod-1"),
        (
            Some(tally(1, 0, 9)),
            "False",
            reason::PENDING,
            "shop/pod-4, 4 more",
        ),
        (Some(tally(7, 2, 2)), "False", reason::PENDING, "0/2"),
        (
            Some(rejection),
            "False",
            reason::REJECTED_BY_PROXY,
            "shop/a rejects rds:in|80 and reports \"missing )\"; the rejection is not verified",
        ),
    ];
    for (tally, status, reason, part) in cases {
        let after = next(
            &WrittenStatus::default(),
            &compiled(1, 1),
            tally.as_ref(),
            1,
        );
        let condition = programmed(&after);
        assert_eq!(
            (condition.0.as_str(), condition.1.as_str()),
            (status, reason),
            "{tally:?}"
        );
        assert!(
            condition.2.contains(part) || after.proxies.as_deref() == Some(part),
            "{part}: {condition:?} {:?}",
            after.proxies
        );
    }
}

#[test]
fn a_generation_not_in_force_is_not_programmed_and_has_a_reason() {
    let mut bad = compiled(2, 1);
    bad.conditions[1].status = ConditionStatus::False;
    bad.conditions[1].reason = reason::BACKEND_NOT_FOUND.to_owned();
    let after = next(&WrittenStatus::default(), &bad, Some(&tally(1, 2, 2)), 1);
    let (status, reason, message) = programmed(&after);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", reason::BACKEND_NOT_FOUND)
    );
    assert!(
        message.starts_with("generation 1 stays in force"),
        "{message}"
    );
    assert_eq!(after.proxies.as_deref(), Some("0/2"));
}

#[test]
fn the_same_again_changes_nothing_and_times_move_only_with_the_status() {
    let first = next(
        &WrittenStatus::default(),
        &compiled(1, 1),
        Some(&tally(1, 1, 2)),
        1,
    );
    assert_eq!(
        next(&first, &compiled(1, 1), Some(&tally(1, 1, 2)), 9),
        first
    );
    let time = |status: &WrittenStatus, kind| {
        condition(&status.conditions, kind)
            .unwrap()
            .last_transition_time
            .clone()
    };
    let second = next(&first, &compiled(1, 1), Some(&tally(1, 2, 2)), 9);
    assert_eq!(time(&second, ConditionType::Programmed), at(9));
    assert_eq!(time(&second, ConditionType::Accepted), at(1));
}

#[test]
fn only_an_acknowledged_spec_becomes_the_last_good() {
    let good = |status: &WrittenStatus| status.last_good.as_ref().map(|last| last.generation);
    let none = WrittenStatus::default();
    assert_eq!(
        good(&next(&none, &compiled(1, 1), Some(&tally(1, 0, 2)), 1)),
        None,
        "no proxy has acknowledged it"
    );
    assert_eq!(
        good(&next(&none, &compiled(1, 1), None, 1)),
        Some(1),
        "no proxy needs it, and there is no better one"
    );
    let first = next(&none, &compiled(1, 1), Some(&tally(1, 1, 2)), 1);
    assert_eq!(good(&first), Some(1));
    assert_eq!(
        good(&next(&first, &compiled(2, 2), None, 2)),
        Some(1),
        "no proxy needs the new one"
    );
    assert_eq!(
        good(&next(&first, &compiled(2, 2), Some(&tally(2, 0, 2)), 2)),
        Some(1)
    );
    // Another replica has set generation 2 aside already; its proxies run generation 1.
    assert_eq!(
        good(&next(&first, &compiled(2, 2), Some(&tally(1, 2, 2)), 2)),
        Some(1)
    );
    let after_rejection = next(&first, &rejected(2, 1), Some(&tally(1, 2, 2)), 2);
    assert_eq!(
        (good(&after_rejection), after_rejection.proxies.as_deref()),
        (Some(1), Some("0/2"))
    );
    assert_eq!(
        good(&next(
            &after_rejection,
            &compiled(3, 3),
            Some(&tally(3, 1, 2)),
            3
        )),
        Some(3)
    );
    // A generation that no proxy needed was kept for want of a better one, and is rejected now.
    let untried = next(&none, &compiled(1, 1), None, 1);
    assert_eq!(
        good(&next(&untried, &rejected(1, 0), Some(&tally(0, 0, 1)), 2)),
        None
    );
}

#[test]
fn replicas_add_up_and_one_that_is_behind_counts_as_waiting() {
    let generations = BTreeMap::from([(object_key(&object()), 2)]);
    let mut all = report(tally(2, 1, 2));
    all.add(&report(tally(2, 3, 3)), &generations);
    all.add(&report(tally(1, 4, 4)), &generations);
    let sum = all.tally(&object()).unwrap();
    assert_eq!((sum.generation, sum.acknowledged, sum.total), (2, 4, 9));
    assert_eq!(sum.laggards(), "shop/pod-1, 4 more");
    // An object that the leader does not know is none.
    let mut none = ProxyCounts::default();
    none.add(&report(tally(2, 1, 1)), &BTreeMap::new());
    assert_eq!(none, ProxyCounts::default());
}

#[test]
fn one_proxy_neither_makes_nor_prevents_the_last_good() {
    let first = next(
        &WrittenStatus::default(),
        &compiled(1, 1),
        Some(&tally(1, 3, 3)),
        1,
    );
    let last_good = |tally: Tally| {
        let after = next(&first, &compiled(2, 2), Some(&tally), 2);
        after.last_good.map(|last| last.generation)
    };
    for (acknowledged, total, unfounded, unverified, expected) in [
        (1, 4, 0, 0, 1),
        (2, 4, 0, 0, 2),
        (1, 2, 1, 0, 2),
        (1, 4, 2, 0, 2),
        (3, 4, 0, 1, 1),
        (0, 2, 2, 0, 1),
    ] {
        let tally = Tally {
            unfounded,
            unverified,
            ..tally(2, acknowledged, total)
        };
        assert_eq!(last_good(tally.clone()), Some(expected), "{tally:?}");
    }
}

#[test]
fn an_unverified_rejection_does_not_erase_the_last_good() {
    let mut good = compiled(1, 1);
    let selected = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    good.in_force.as_mut().unwrap().selected = Some(selected.clone());
    let first = next(&WrittenStatus::default(), &good, Some(&tally(1, 2, 2)), 1);
    let doubted = Tally {
        unverified: 1,
        ..tally(1, 1, 2)
    };
    for after in [compiled(1, 1), good] {
        let second = next(&first, &after, Some(&doubted), 2);
        let last = second.last_good.unwrap();
        assert_eq!(
            (last.generation, last.selected),
            (1, Some(selected.clone()))
        );
    }
    let verified = next(&first, &rejected(1, 0), Some(&doubted), 2);
    assert_eq!(verified.last_good, None);
    let none = next(
        &WrittenStatus::default(),
        &compiled(1, 1),
        Some(&doubted),
        1,
    );
    assert_eq!(none.last_good, None, "no new one");
}

#[test]
fn enforced_is_true_only_where_all_proxies_have_acknowledged_the_policy() {
    let enforced = |status, own: &str, tally: &Tally| {
        let mut policy = compiled(1, 1);
        policy.conditions.push(DesiredCondition {
            kind: ConditionType::Enforced,
            status,
            reason: own.to_owned(),
            message: "every rule decides".to_owned(),
            generation: None,
        });
        let after = next(&WrittenStatus::default(), &policy, Some(tally), 1);
        let enforced = condition(&after.conditions, ConditionType::Enforced).unwrap();
        (
            enforced.status.clone(),
            enforced.reason.clone(),
            enforced.message.clone(),
        )
    };
    let (holds, not) = (ConditionStatus::True, ConditionStatus::False);
    let everywhere = reason::NOT_ENFORCED_EVERYWHERE;
    for (before, own, acknowledged, total, unfounded, unverified, status, reason) in [
        (
            holds,
            reason::ENFORCED,
            2,
            2,
            0,
            0,
            "True",
            reason::ENFORCED,
        ),
        (
            holds,
            reason::ENFORCED,
            1,
            2,
            0,
            0,
            "Unknown",
            reason::PENDING,
        ),
        (holds, reason::ENFORCED, 2, 3, 1, 0, "False", everywhere),
        (holds, reason::ENFORCED, 0, 3, 0, 3, "False", everywhere),
        (not, reason::AUDIT, 2, 3, 1, 0, "False", reason::AUDIT),
        (not, reason::AUDIT, 2, 3, 0, 0, "False", reason::AUDIT),
    ] {
        let tally = Tally {
            unfounded,
            unverified,
            ..tally(1, acknowledged, total)
        };
        let after = enforced(before, own, &tally);
        assert_eq!((&*after.0, &*after.1), (status, reason), "{tally:?}");
        let counts = format!(
            "{} of {total} proxies reject generation 1",
            unfounded + unverified
        );
        assert_eq!(after.2.contains(&counts), reason == everywhere, "{after:?}");
    }
}

const CALLERS: &str = "---
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: callers, namespace: shop, generation: 1}
spec: {selector: {matchLabels: {app: web}}, rules: [{from: {namespaces: [shop]}}]}
";

/// The counts right after a start, when no proxy has connected yet; `programmed`: by the last statuses all proxies ran the
/// generation in force.
fn after_start(learned: bool, programmed: bool) -> (Snapshot, ProxyCounts) {
    let snapshot = Snapshot {
        revision: 1,
        ..Snapshot::of_yaml(&[WORLD, CALLERS].concat())
    };
    let scopes = Arc::new(Scopes::default());
    let client = &snapshot.compiled.proxies[&PodRef::new("shop", "client-1")];
    if learned {
        let to = "service/shop/web:80".parse().unwrap();
        scopes.learn(&client.workload(), &to, None, 1);
    }
    let domain = "cluster.local".parse().unwrap();
    let mesh = MeshSource::new(domain, scopes, Duration::from_secs(60), Arc::default());
    let trials = Trials::new(Some("/no/such/envoy".into()), Path::new("/"));
    let evidence = Evidence {
        trials: &trials,
        was_programmed: &|_| programmed,
    };
    let (mut report, mut absent) = (ProxyCounts::default(), AbsentPolicies::default());
    report.add_absent(
        &snapshot,
        &evidence,
        &ProxyObservations::default(),
        |proxy| absent.of(&snapshot, &mesh, proxy),
    );
    (snapshot, report)
}

#[test]
fn after_a_start_every_ready_pod_that_needs_an_object_counts_before_it_has_connected() {
    let split = ObjectRef::new(ObjectKind::TrafficSplit, "shop", "web");
    for (learned, programmed, of_split, of_policy) in [
        // No proxy has acknowledged the new generation.
        (true, false, Some((0, 1)), (0, 1)),
        // Proxies still run the generation that all ran before the restart.
        (true, true, Some((1, 1)), (1, 1)),
        (false, false, None, (0, 1)),
    ] {
        let (snapshot, report) = after_start(learned, programmed);
        let counts = |object: &ObjectRef| {
            report
                .tally(object)
                .map(|tally| (tally.acknowledged, tally.total))
        };
        assert_eq!(counts(&split), of_split);
        assert_eq!(counts(&object()), Some(of_policy));
        let status = &snapshot.compiled.statuses[&split];
        let before = WrittenStatus::default();
        let after = before.next(split.kind, status, report.tally(&split), &at(1));
        let ratio = of_split.map_or("0/0".to_owned(), |(n, m)| format!("{n}/{m}"));
        assert_eq!(after.proxies, Some(ratio));
        assert_eq!(
            after.is_programmed(2),
            of_split == Some((1, 1)),
            "{after:?}"
        );
    }
}

#[test]
fn settings_are_the_last_good_once_they_are_accepted() {
    let good = |status: &WrittenStatus| status.last_good.as_ref().map(|good| good.generation);
    let next = |before: &WrittenStatus, compiled: &ObjectStatus| {
        before.next(ObjectKind::Mesh, compiled, None, &at(0))
    };
    let first = next(&WrittenStatus::default(), &compiled(1, 1));
    assert_eq!(good(&first), Some(1));
    let mut salvaged = compiled(2, 2);
    salvaged.conditions[0].status = ConditionStatus::False;
    let second = next(&first, &salvaged);
    assert_eq!(good(&second), Some(1), "a salvaged spec is not good");
    assert_eq!(good(&next(&second, &compiled(3, 3))), Some(3));
}
