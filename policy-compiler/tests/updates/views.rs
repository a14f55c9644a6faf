//! All that can be seen of a compile, compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy_compiler::{Compiled, Dependency, Destination, PodRef, Replaced, Scope, View};
use proptest::prelude::*;

use crate::pool::NAMESPACES;

/// A scope with a bit of everything.
pub struct Asked {
    active: BTreeSet<Destination>,
    draining: BTreeSet<Destination>,
    granted: BTreeSet<Arc<str>>,
    retired: BTreeSet<Arc<str>>,
    denied: BTreeSet<Arc<str>>,
}

impl Asked {
    pub fn all() -> Vec<Self> {
        let destinations = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let names = |ats: &[&str]| {
            ats.iter()
                .map(|at| Compiled::on_demand_name(at.parse().unwrap(), "1"))
                .collect::<BTreeSet<_>>()
        };
        let external = NAMESPACES.iter().flat_map(|namespace| {
            let at = ["api.stripe.com:443", "api.stripe.com:80"];
            at.map(|at| Arc::from(format!("dst|{at}|{namespace}/stripe")))
        });
        vec![
            Self {
                active: destinations(&[
                    "service/shop/a:80",
                    "service/shop/a:80/6",
                    "pod/shop/b-0:8080",
                    "service/shop/gone:1",
                    "service/till/a:80",
                    "pod/till/b-0:8080",
                    "service/bank/b:80",
                ]),
                draining: destinations(&[
                    "service/shop/b:80",
                    "pod/shop/c-1:8080",
                    "service/bank/a:80",
                ]),
                granted: names(&["10.96.0.3:80", "10.96.1.3:80", "203.0.113.9:443"])
                    .into_iter()
                    .chain(external)
                    .collect(),
                retired: BTreeSet::new(),
                denied: names(&["10.96.0.1:80"]),
            },
            Self {
                active: destinations(&["service/shop/c:80"]),
                draining: BTreeSet::new(),
                granted: names(&[
                    "10.96.0.1:80",
                    "10.96.0.2:80",
                    "[fd00:96::2]:80",
                    "[fd00::1:1]:8080",
                    "10.96.1.1:80",
                    "10.96.2.2:80",
                    "10.0.0.0:8080",
                    "10.1.0.0:8080",
                    "10.2.1.0:8080",
                    "10.0.9.9:8080",
                    "192.0.2.7:8080",
                ]),
                retired: names(&[
                    "10.96.0.2:80",
                    "10.96.2.2:80",
                    "10.0.0.0:8080",
                    "10.1.0.0:8080",
                    "192.0.2.7:8080",
                ]),
                denied: BTreeSet::new(),
            },
        ]
    }

    pub fn view(&self, compiled: &Compiled, pod: &PodRef) -> Option<View> {
        let scope = Scope {
            active: &self.active,
            draining: &self.draining,
            granted: &self.granted,
            retired: &self.retired,
            denied: &self.denied,
            tapped: false,
        };
        compiled.view(pod, &scope)
    }
}

pub type Views = BTreeMap<(PodRef, usize), View>;

pub fn views(compiled: &Compiled) -> Views {
    let asked = Asked::all();
    let pods = compiled.proxies.keys();
    pods.flat_map(|pod| {
        let views = asked.iter().enumerate();
        views.map(move |(i, asked)| ((pod.clone(), i), asked.view(compiled, pod).unwrap()))
    })
    .collect()
}

/// Checks that an update equals a cold compile in every observable way.
pub fn same_as_cold(updated: &Compiled, cold: &Compiled) -> Result<(), TestCaseError> {
    prop_assert_eq!(&updated.proxies, &cold.proxies);
    prop_assert_eq!(&updated.statuses, &cold.statuses);
    prop_assert_eq!(&updated.findings, &cold.findings);
    prop_assert_eq!(views(updated), views(cold));
    let ats: Vec<_> = updated.destinations().collect();
    prop_assert_eq!(&ats, &cold.destinations().collect::<Vec<_>>());
    for at in ats {
        let there = updated.destination_at(at);
        prop_assert_eq!(&there, &cold.destination_at(at));
        let there = there.unwrap();
        for namespace in NAMESPACES.map(Into::into) {
            let clusters = |of: &Compiled| of.clusters_of(&there, &namespace);
            prop_assert_eq!(clusters(updated), clusters(cold));
        }
    }
    Ok(())
}

/// Checks that the changes name every view that differs, and that equal parts keep their `Arc`.
pub fn says_what_it_did(
    old: &Compiled,
    before: &Views,
    new: &Compiled,
) -> Result<(), TestCaseError> {
    let after = views(new);
    let changes = new.changes();
    for (key, view) in &after {
        let Some(earlier) = before.get(key) else {
            let told = changes.touched.contains(&Dependency::Pod(key.0.clone()));
            prop_assert!(changes.all || told, "{:?} came", key.0);
            continue;
        };
        let told = changes.all || !earlier.depends.is_disjoint(&changes.touched);
        // An untouched view becomes the new view if each replaced part gives way to its successor.
        let now = earlier.parts.iter().map(|part| {
            let is_old = |r: &&Replaced| Arc::ptr_eq(&r.old, part);
            let replaced = changes.replaced.iter().find(is_old);
            let successors = changes.replaced.iter().filter(is_old).count();
            prop_assert!(successors <= 1, "a part has several successors");
            let service = |r: &Replaced| Dependency::Service(r.service.clone());
            let depends = replaced.is_none_or(|r| earlier.depends.contains(&service(r)));
            prop_assert!(depends, "a part was replaced unasked");
            Ok(replaced.map_or(part, |r| &r.new))
        });
        let now = now.collect::<Result<Vec<_>, _>>()?;
        let same = now.len() == view.parts.len()
            && now.iter().zip(&view.parts).all(|(a, b)| Arc::ptr_eq(a, b))
            && earlier.absent == view.absent;
        prop_assert!(
            told || (same && earlier.depends == view.depends),
            "{key:?} differs, but only {:?} was touched, of {:?}",
            changes.touched,
            earlier.depends
        );
        for part in &view.parts {
            let equal: Vec<_> = earlier.parts.iter().filter(|p| *p == part).collect();
            let kept = equal.is_empty() || equal.iter().any(|p| Arc::ptr_eq(p, part));
            prop_assert!(kept, "{key:?}: a part was made again: {:?}", part);
        }
    }
    for (pod, _) in before.keys().filter(|key| !after.contains_key(*key)) {
        let told = changes.touched.contains(&Dependency::Pod(pod.clone()));
        prop_assert!(changes.all || told, "{pod} went");
    }
    for (pod, proxy) in &new.proxies {
        if old.proxies.get(pod).is_some_and(|earlier| earlier != proxy) {
            let told = changes.touched.contains(&Dependency::Pod(pod.clone()));
            prop_assert!(changes.all || told, "{pod} is another");
        }
    }
    Ok(())
}
