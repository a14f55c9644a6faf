//! All printers for people, held against texts that try to command the terminal or to forge a line.

use heddle_acceptor::is_safe;
use proptest::prelude::*;

use crate::hostile::Hostile;
use crate::{
    analyze, check, cluster, compile, cost, describe, edges, findings, mesh, mtls, plan, policy,
    proxy, replicas, rollout, table, tap, top, why,
};

type Printer = fn(&Hostile) -> String;

/// Each printer by the command, or the part that commands share.
const PRINTERS: [(&str, Printer); 19] = [
    ("analyze", analyze::printed),
    ("check", check::printed),
    ("compile", compile::printed),
    ("cost", cost::printed),
    ("describe", describe::printed),
    ("edges", |of| edges::printed(&of.graph)),
    ("errors", |of| {
        cluster::explain(&anyhow::anyhow!(of.text.clone()).context(of.text.clone()))
    }),
    ("findings", |of| {
        of.outcome
            .findings
            .iter()
            .map(|one| findings::line(one) + "\n")
            .collect()
    }),
    ("mesh", mesh::printed),
    ("mtls", mtls::printed),
    ("plan", plan::printed),
    ("policy", policy::printed),
    ("proxy", proxy::printed),
    ("replicas", |of| {
        replicas::unasked(&of.graph.replicas).join("\n")
    }),
    ("rollout", rollout::printed),
    ("table", |of| {
        table::first(&["A", "B"], vec![of.texts(), of.texts()], 1)
    }),
    ("tap", tap::printed),
    ("top", top::printed),
    ("why", why::printed),
];

/// Files that print for people without a printer of the list: their lines come from [`crate::out`] alone, which makes each of them one line.
const BY_LINE: [&str; 9] = [
    "bugreport",
    "ca",
    "dashboard",
    "demo",
    "install",
    "main",
    "uninstall",
    "version",
    "out",
];

/// The beginning of a line that a printer must not begin.
const FORGED: &str = "forged:";

/// A text with a beginning that forges a line in each of several ways.
fn forging(begin: &str) -> String {
    let ends = [
        "\n",
        "\r",
        "\u{b}",
        "\u{85}",
        "\u{2028}",
        "\u{1b}[2J\n",
        "\u{9b}31m\n",
    ];
    ends.iter()
        .fold(begin.to_owned(), |text, end| format!("{text}{end}{FORGED}"))
}

fn hold(text: &str) {
    let of = Hostile::new(text);
    for (name, printer) in PRINTERS {
        let printed = printer(&of);
        let mut plain = printed.clone();
        for color in ["0", "1", "31", "32", "33"] {
            plain = plain.replace(&format!("\u{1b}[{color}m"), "");
        }
        let wrong = plain.chars().find(|c| *c != '\n' && !is_safe(*c));
        assert_eq!(wrong, None, "{name}: {text:?}: {printed:?}");
        // YAML has lines of texts, indented.
        let yaml = ["describe", "policy"].contains(&name);
        let begin = |line: &&str| if yaml { *line } else { line.trim_start() }.starts_with(FORGED);
        let forged = plain.lines().find(begin);
        assert_eq!(forged, None, "{name}: {text:?}: {printed}");
    }
}

#[test]
fn every_printer_prints_the_text() {
    let of = Hostile::new("letters");
    for (name, printer) in PRINTERS {
        assert!(printer(&of).contains("letters"), "{name}");
    }
}

#[test]
fn no_printer_lets_a_text_of_any_width_command_the_terminal_or_forge_a_line() {
    for width in 0..=200 {
        let letter = ["w", "\u{6f22}", " ", "/", "|", "%"][width % 6];
        hold(&forging(&format!("a{}", letter.repeat(width))));
    }
    hold(&forging(&"w".repeat(70_000)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_printer_lets_any_text_command_the_terminal(text in any::<String>()) {
        hold(&text);
    }
}

/// A command that is new is in one of the lists.
#[test]
fn every_command_that_prints_is_in_the_list() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(&sources).unwrap() {
        let path = entry.unwrap().path();
        let files: Vec<_> = match path.is_dir() {
            true => std::fs::read_dir(&path)
                .unwrap()
                .map(|of| of.unwrap().path())
                .collect(),
            false => vec![path.clone()],
        };
        let prints = files.iter().filter(|file| file.is_file()).any(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            ["say!(", "tell!(", ".print(", ".print_next(", "out::text("]
                .iter()
                .any(|way| text.contains(way))
        });
        let name = path.file_stem().unwrap().to_str().unwrap();
        let known = PRINTERS.iter().any(|(printer, _)| *printer == name) || BY_LINE.contains(&name);
        assert!(
            !prints || known || name == "printers",
            "{name} prints, and is in no list"
        );
    }
}
