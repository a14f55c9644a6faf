//! The documents name the sidecar's ports, these and no others.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use heddle_ports::RESERVED;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// The numbers of five digits that begin with 150, in a text.
fn ports(text: &str) -> BTreeSet<u16> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter(|word| word.len() == 5 && word.starts_with("150"))
        .map(|word| word.parse().unwrap())
        .collect()
}

#[test]
fn the_security_document_lists_every_reserved_port_and_no_other() {
    let text = document("docs/security.md");
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Own ports"))
        .unwrap();
    let line = section
        .lines()
        .find(|line| line.starts_with("**Reserved ports**"))
        .unwrap();
    assert_eq!(ports(line), BTreeSet::from(RESERVED));
}

#[test]
fn the_architecture_has_a_row_for_every_reserved_port() {
    let text = document("ARCHITECTURE.md");
    let rows: BTreeSet<u16> = text
        .lines()
        .filter(|line| line.starts_with("| 150"))
        .flat_map(|line| ports(line.split('|').nth(1).unwrap_or_default()))
        .collect();
    for port in RESERVED {
        assert!(rows.contains(&port), "{port} has no row in ARCHITECTURE.md");
    }
}
