//! The status of a route with some invalid rules.

use heddle_policy_compiler::{ParentRef, ParentStatus};

use super::*;

#[test]
fn a_route_that_falls_back_is_accepted_at_the_generation_in_force_and_keeps_its_last_good_spec() {
    let mut route = compiled(2, 1);
    route.conditions[0].generation = Some(1);
    route.conditions.push(DesiredCondition {
        kind: ConditionType::PartiallyInvalid,
        status: ConditionStatus::True,
        reason: reason::UNSUPPORTED_VALUE.to_owned(),
        message: "Fall Back to generation 1: spec.rules[1].filters[0]".to_owned(),
        generation: None,
    });
    let parent = |name: &str, conditions| ParentStatus {
        parent: ParentRef {
            name: name.to_owned(),
            ..ParentRef::default()
        },
        conditions,
    };
    let not_accepted = DesiredCondition {
        status: ConditionStatus::False,
        generation: None,
        ..route.conditions[0].clone()
    };
    route.parents = vec![
        parent("reviews", Vec::new()),
        parent("other", vec![not_accepted]),
    ];
    assert!(needs_last_good(&route));
    let before = WrittenStatus {
        last_good: compiled(1, 1).in_force,
        ..WrittenStatus::default()
    };
    let now = at(1);
    let after = before.next(ObjectKind::HTTPRoute, &route, Some(&tally(1, 2, 2)), &now);
    let written = |index: usize| -> Vec<(String, String, Option<i64>)> {
        let conditions = after.parents[index].conditions.iter();
        conditions
            .map(|of| (of.type_.clone(), of.status.clone(), of.observed_generation))
            .collect()
    };
    let row = |kind: &str, status: &str, generation| {
        (kind.to_owned(), status.to_owned(), Some(generation))
    };
    assert_eq!(
        written(0),
        [
            row("Accepted", "True", 1),
            row("PartiallyInvalid", "True", 2),
            row("ResolvedRefs", "True", 2),
            row("Programmed", "False", 2)
        ]
    );
    assert_eq!(
        written(1),
        [
            row("Accepted", "False", 2),
            row("ResolvedRefs", "True", 2),
            row("Programmed", "False", 2)
        ]
    );
    assert_eq!(after.last_good, before.last_good);
    assert_eq!(after.generation(), 2);
    // The condition goes with its cause.
    let fine = ObjectStatus {
        parents: vec![parent("reviews", Vec::new())],
        ..compiled(3, 3)
    };
    let mended = after.next(ObjectKind::HTTPRoute, &fine, Some(&tally(3, 2, 2)), &now);
    let kinds = mended.parents[0].conditions.iter().map(|of| &*of.type_);
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["Accepted", "ResolvedRefs", "Programmed"]
    );
    assert_eq!(mended.last_good.map(|good| good.generation), Some(3));
}
