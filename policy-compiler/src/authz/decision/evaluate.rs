//! A request through the steps, as Envoy's matchers go.

use super::{Condition, DecisionList, Input, Pattern, Step, Test, Verdict};
use crate::authz::Request;
use crate::authz::evaluate::whole;

impl DecisionList {
    /// The verdict; `None` only if no step decides.
    pub(super) fn evaluate(&self, request: &Request) -> Option<Verdict> {
        first(&self.steps, request)
    }
}

fn first(steps: &[Step], request: &Request) -> Option<Verdict> {
    steps.iter().find_map(|step| evaluate(step, request))
}

fn evaluate(step: &Step, request: &Request) -> Option<Verdict> {
    let peer = request.peer.as_ref().map(|peer| peer.as_str());
    let prefixes = |map: &std::collections::BTreeMap<std::sync::Arc<str>, Vec<Step>>,
                    text: Option<&str>| {
        let text = text?;
        let prefixes = map.iter().filter(|(key, _)| text.starts_with(&***key));
        let mut prefixes: Vec<_> = prefixes.collect();
        prefixes.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        let mut prefixes = prefixes.into_iter();
        prefixes.find_map(|(_, steps)| first(steps, request))
    };
    match step {
        Step::Decide(verdict) => Some(verdict.clone()),
        Step::When(condition, steps) => holds(condition, request)
            .then(|| first(steps, request))
            .flatten(),
        Step::ByIdentity(map) => first(map.get(peer?)?, request),
        Step::ByNamespace(map) => prefixes(map, peer),
        Step::ByWholePath(map) => first(map.get(&*text(&Input::Path, request)?)?, request),
        Step::ByPath(map) => prefixes(map, text(&Input::Path, request).as_deref()),
    }
}

fn holds(condition: &Condition, request: &Request) -> bool {
    match condition {
        Condition::All(all) => all.iter().all(|condition| holds(condition, request)),
        Condition::Any(any) => any.iter().any(|condition| holds(condition, request)),
        Condition::Not(condition) => !holds(condition, request),
        Condition::Source(blocks) => blocks.iter().any(|block| block.contains(&request.source)),
        Condition::Text(input, test) => {
            text(input, request).is_some_and(|text| matches(test, &text))
        }
    }
}

fn text(input: &Input, request: &Request) -> Option<String> {
    let http = request.http.as_ref()?;
    match input {
        Input::Method => Some(http.method.clone()),
        Input::Path => Some(http.path.clone()),
        Input::Header(name) => http.header(name),
    }
}

fn matches(test: &Test, text: &str) -> bool {
    let lower = |text: &str| {
        if test.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    match &test.pattern {
        Pattern::Exact(pattern) => lower(text) == lower(pattern),
        Pattern::Prefix(pattern) => lower(text).starts_with(&lower(pattern)),
        Pattern::Contains(pattern) => lower(text).contains(&lower(pattern)),
        Pattern::Regex(pattern) => whole(pattern, text),
    }
}
