//! Steps in which few questions find the rules of one action that match: by the caller's identity, by the path, and one by one only for the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Condition, Input, Pattern, Step, Verdict};

/// So many bytes of conditions a rule may have in the steps of its callers, repeated for each; above, its conditions come before its callers.
const MAX_REPEATED: usize = 2 * 1024;
/// From so many paths on, a map is cheaper than one question after another.
const MAPPED: usize = 4;

/// A rule, as far as it is not yet in steps.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) verdict: Verdict,
    /// Callers by identity and by prefix of the identity. Both empty: any caller.
    pub(super) identities: Vec<Arc<str>>,
    pub(super) namespaces: Vec<Arc<str>>,
    /// All of them must hold.
    pub(super) conditions: Vec<Condition>,
    /// One of them must match. Empty: any path.
    pub(super) paths: Vec<Literal>,
}

/// A path that is compared byte by byte.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    /// Never empty.
    pub(super) text: Arc<str>,
    /// Whether it is the beginning of a path.
    pub(super) open: bool,
    /// Whether the path may have one more `/` at the end.
    pub(super) separator: bool,
    pub(super) ignore_case: bool,
}

impl Literal {
    /// As a condition on the path with its query.
    pub(super) fn condition(&self) -> Condition {
        let test = |pattern| Condition::text(Input::Path, pattern, self.ignore_case);
        if self.open {
            return test(Pattern::Prefix(Arc::clone(&self.text)));
        }
        let with = |end: &str| -> Arc<str> { format!("{}{end}", self.text).into() };
        let mut conditions = vec![
            test(Pattern::Exact(Arc::clone(&self.text))),
            test(Pattern::Prefix(with("?"))),
        ];
        if self.separator {
            conditions.push(test(Pattern::Exact(with("/"))));
            conditions.push(test(Pattern::Prefix(with("/?"))));
        }
        Condition::Any(conditions)
    }

    /// As an expression for the path without its query, in upper and lower case.
    pub(super) fn in_any_case(&self) -> String {
        let end = match (self.open, self.separator) {
            (true, _) => "[^?#]*",
            (false, true) => "/?",
            (false, false) => "",
        };
        format!("(?i){}{end}", regex::escape(&self.text))
    }
}

/// The steps of rules of one action.
pub(super) fn arrange(entries: Vec<Entry>) -> Vec<Step> {
    let mut identities: BTreeMap<Arc<str>, Vec<Item>> = BTreeMap::new();
    let mut namespaces: BTreeMap<Arc<str>, Vec<Item>> = BTreeMap::new();
    let mut anybody = Vec::new();
    for entry in entries {
        let callers = entry.identities.len() + entry.namespaces.len();
        if callers == 0 {
            anybody.push(Item::of(&entry));
        } else if entry.is_repeated(callers) {
            for (map, keys) in [
                (&mut identities, &entry.identities),
                (&mut namespaces, &entry.namespaces),
            ] {
                for key in keys {
                    map.entry(Arc::clone(key))
                        .or_default()
                        .push(Item::of(&entry));
                }
            }
        } else {
            anybody.push(Item::before_callers(&entry));
        }
    }
    let last = by_path(anybody);
    // A step that decides for any caller decides for all.
    if matches!(&*last, [Step::Decide(_)]) {
        return last;
    }
    let mut steps = by_caller(each(identities), each(namespaces));
    steps.extend(last);
    steps
}

/// The steps for callers by identity and by prefix of the identity.
fn by_caller(
    identities: BTreeMap<Arc<str>, Vec<Step>>,
    namespaces: BTreeMap<Arc<str>, Vec<Step>>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if !identities.is_empty() {
        steps.push(Step::ByIdentity(identities));
    }
    if !namespaces.is_empty() {
        steps.push(Step::ByNamespace(namespaces));
    }
    steps
}

fn each(map: BTreeMap<Arc<str>, Vec<Item>>) -> BTreeMap<Arc<str>, Vec<Step>> {
    map.into_iter()
        .map(|(key, items)| (key, by_path(items)))
        .collect()
}

impl Entry {
    /// Whether it is in the steps of each of its callers.
    fn is_repeated(&self, callers: usize) -> bool {
        let literals = self.paths.iter().map(|path| 64 + path.text.len());
        let conditions = self.conditions.iter().map(Condition::size);
        let size = literals.chain(conditions).sum::<usize>();
        let expression = self.conditions.iter().any(Condition::has_expression);
        callers == 1 || (!expression && callers * size <= MAX_REPEATED)
    }

    fn path_condition(&self) -> Option<Condition> {
        let paths = self.paths.iter().map(|path| path.condition());
        Condition::any(paths.collect())
    }
}

/// A rule within the steps of its callers.
struct Item {
    conditions: Vec<Condition>,
    paths: Vec<Literal>,
    then: Vec<Step>,
}

impl Item {
    fn of(entry: &Entry) -> Self {
        Self {
            conditions: entry.conditions.clone(),
            paths: entry.paths.clone(),
            then: vec![Step::Decide(entry.verdict.clone())],
        }
    }

    /// A rule with callers that are compared last.
    fn before_callers(entry: &Entry) -> Self {
        let decide = |keys: &[Arc<str>]| -> BTreeMap<Arc<str>, Vec<Step>> {
            let decide = || vec![Step::Decide(entry.verdict.clone())];
            keys.iter().map(|key| (Arc::clone(key), decide())).collect()
        };
        let then = by_caller(decide(&entry.identities), decide(&entry.namespaces));
        let conditions = entry.conditions.iter().cloned();
        Self {
            conditions: conditions.chain(entry.path_condition()).collect(),
            paths: Vec::new(),
            then,
        }
    }

    /// Whether its conditions can be repeated for each of its paths.
    fn is_mapped(&self) -> bool {
        let exact_case = self.paths.iter().all(|path| !path.ignore_case);
        exact_case && matches!((self.paths.len(), self.conditions.len()), (1, _) | (2.., 0))
    }

    /// One item for each path.
    fn per_path(self) -> impl Iterator<Item = Self> {
        self.paths.into_iter().map(move |path| Self {
            conditions: self.conditions.clone(),
            paths: vec![path],
            then: self.then.clone(),
        })
    }

    fn step(mut self) -> Vec<Step> {
        if self.paths.len() > MAPPED && self.paths.iter().all(|path| !path.ignore_case) {
            let mapped = Self {
                conditions: Vec::new(),
                paths: std::mem::take(&mut self.paths),
                then: self.then,
            };
            self.then = path_maps(mapped.per_path());
        }
        let paths = self.paths.iter().map(|path| path.condition());
        self.conditions.extend(Condition::any(paths.collect()));
        match Condition::all(self.conditions) {
            Some(condition) => vec![Step::When(condition, self.then)],
            None => self.then,
        }
    }
}

/// The steps of rules for the same callers.
fn by_path(items: Vec<Item>) -> Vec<Step> {
    let (mapped, others): (Vec<Item>, Vec<Item>) = items.into_iter().partition(Item::is_mapped);
    let paths = mapped.iter().map(|item| item.paths.len()).sum::<usize>();
    let mut steps = Vec::new();
    if paths > MAPPED {
        steps.extend(path_maps(mapped.into_iter().flat_map(Item::per_path)));
        steps.extend(others.into_iter().flat_map(Item::step));
    } else {
        let all = mapped.into_iter().chain(others);
        steps.extend(all.flat_map(Item::step));
    }
    decisive(steps)
}

/// Maps of items with one path each.
fn path_maps(items: impl Iterator<Item = Item>) -> Vec<Step> {
    let mut prefixes: BTreeMap<Arc<str>, Vec<Step>> = BTreeMap::new();
    let mut whole: BTreeMap<Arc<str>, Vec<Step>> = BTreeMap::new();
    for mut item in items {
        let Some(path) = item.paths.pop() else {
            continue;
        };
        if path.open {
            prefixes.entry(path.text).or_default().extend(item.step());
        } else if item.conditions.is_empty() {
            // A condition on the path takes ten times the memory of an entry.
            let ends: &[&str] = if path.separator { &["", "/"] } else { &[""] };
            for end in ends {
                let text = format!("{}{end}", path.text);
                let with_query = format!("{text}?").into();
                let then = || item.then.iter().cloned();
                prefixes.entry(with_query).or_default().extend(then());
                whole.entry(text.into()).or_default().extend(then());
            }
        } else {
            item.conditions.push(path.condition());
            prefixes.entry(path.text).or_default().extend(item.step());
        }
    }
    let decisive = |map: BTreeMap<Arc<str>, Vec<Step>>| -> BTreeMap<_, _> {
        let each = map.into_iter();
        each.map(|(key, steps)| (key, decisive(steps))).collect()
    };
    let mut steps = Vec::new();
    if !prefixes.is_empty() {
        steps.push(Step::ByPath(decisive(prefixes)));
    }
    if !whole.is_empty() {
        steps.push(Step::ByWholePath(decisive(whole)));
    }
    steps
}

/// Only the step that decides, if one does: the others would decide the same.
fn decisive(steps: Vec<Step>) -> Vec<Step> {
    let decides = |step: &Step| matches!(step, Step::Decide(_));
    match steps.iter().position(decides) {
        Some(at) => steps.into_iter().skip(at).take(1).collect(),
        None => steps,
    }
}
