//! Names in messages.

use crate::world::PodTemplate;

/// So many workloads or ports are named in a message.
const NAMED: usize = 3;

/// The workload of a template.
pub(super) fn workload(template: &PodTemplate) -> String {
    template.workload().to_string()
}

/// The first of a list of names, and the number of the others.
pub(super) fn named(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let mut text = all
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > NAMED {
        text.push_str(&format!(" and {} more", all.len() - NAMED));
    }
    text
}
