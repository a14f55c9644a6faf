//! The crate table of ARCHITECTURE.md against the dependencies that cargo resolves and the names in the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::source;
use crate::repo::{Repo, tree_alone};

/// Members that are not part of the product and may use anything.
const OUTSIDE: &[&str] = &["bench", "tests/e2e", "tests/scope"];

/// The crates and names that a word in the last column of the table forbids.
struct Word {
    word: &'static str,
    /// Packages that must not be dependencies of the crate itself.
    direct: &'static [&'static str],
    /// Packages that must not come in through others either.
    anywhere: &'static [&'static str],
    /// Names that must not be in the sources.
    sources: &'static [&'static str],
}

const fn word(
    word: &'static str,
    direct: &'static [&'static str],
    anywhere: &'static [&'static str],
    sources: &'static [&'static str],
) -> Word {
    Word {
        word,
        direct,
        anywhere,
        sources,
    }
}

// envoy-types brings tonic and with it tokio into every tree: there only a direct dependency counts.
const WORDS: &[Word] = &[
    word("a client", &[], &["kube-client"], &[]),
    word("kube client", &[], &["kube-client"], &[]),
    word("Kubernetes client", &[], &["kube-client"], &[]),
    word("Kubernetes", &[], &["kube-core", "k8s-openapi"], &[]),
    word("Envoy", &[], &["envoy-types"], &[]),
    word("tokio", &["tokio", "tonic"], &[], &["tokio::", "async fn"]),
    word(
        "our policies",
        &[],
        &["heddle-crds", "heddle-policy-compiler"],
        &[],
    ),
    word(
        "policies",
        &[],
        &["heddle-crds", "heddle-policy-compiler"],
        &[],
    ),
    word(
        "net",
        &["hyper", "reqwest"],
        &[],
        &["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs"],
    ),
    word(
        "fs",
        &["tempfile"],
        &[],
        &["std::fs", "fs::read", "fs::write", "File::open"],
    ),
    word(
        "clock",
        &[],
        &[],
        &["SystemTime", "Instant::now", "Timestamp::now", "now_utc"],
    ),
];

struct Row {
    may_use: BTreeSet<String>,
    all_libraries: bool,
    never: Vec<String>,
}

struct Member {
    package: String,
    has_library: bool,
    /// Folders of our own crates.
    uses: BTreeSet<String>,
    /// Names of everybody else's.
    foreign: BTreeSet<String>,
}

/// Returns a finding for each difference. `packages` are those of the workspace, as `cargo metadata` has them.
///
/// # Errors
/// ARCHITECTURE.md or a source cannot be read, or cargo does not resolve a package.
pub fn check(repo: &Repo, packages: &[Value]) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(repo.path("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let table = table(&text);
    let members = members(repo, packages)?;
    let mut findings = borders(&table, &members);
    for (name, row) in &table {
        if let Some(member) = members.get(name) {
            findings.extend(ignorance(repo, name, row, member)?);
        }
    }
    Ok(findings)
}

/// The rows of the one table with `crate` at the head of its first column.
fn table(text: &str) -> BTreeMap<String, Row> {
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"))
        .skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(row)
        .collect()
}

fn row(line: &str) -> Option<(String, Row)> {
    let mut cells = line.trim_matches('|').split('|').map(str::trim);
    let name = cells.next()?.trim_matches('`').to_owned();
    let (_job, uses, never) = (cells.next()?, cells.next()?, cells.next()?);
    let list = |cell: &str| -> Vec<String> {
        cell.split(',')
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect()
    };
    let may_use = list(uses).into_iter().filter(|word| word != "-").collect();
    Some((
        name,
        Row {
            may_use,
            all_libraries: uses == "all libraries",
            never: list(never),
        },
    ))
}

fn members(repo: &Repo, packages: &[Value]) -> Result<BTreeMap<String, Member>> {
    packages
        .iter()
        .map(|package| member(repo, package))
        .collect()
}

fn member(repo: &Repo, package: &Value) -> Result<(String, Member)> {
    let text = |key| {
        package
            .get(key)
            .and_then(Value::as_str)
            .context("cargo metadata")
    };
    let folder = Path::new(text("manifest_path")?)
        .parent()
        .context("a manifest without folder")?;
    let targets = package
        .get("targets")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let has_library = targets
        .filter_map(|target| target.pointer("/kind/0"))
        .any(|kind| kind.as_str() == Some("lib"));
    let (mut uses, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for dependency in package
        .get("dependencies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |key| dependency.get(key).and_then(Value::as_str);
        match (text("kind"), text("path"), text("name")) {
            // Tests may reach across borders.
            (Some("dev"), _, _) => {}
            (_, Some(path), _) => {
                uses.insert(folder_name(repo, Path::new(path))?);
            }
            (_, None, name) => foreign.extend(name.map(str::to_owned)),
        }
    }
    let package = text("name")?.to_owned();
    Ok((
        folder_name(repo, folder)?,
        Member {
            package,
            has_library,
            uses,
            foreign,
        },
    ))
}

fn folder_name(repo: &Repo, folder: &Path) -> Result<String> {
    let relative = folder
        .strip_prefix(repo.root())
        .context("a member outside of the repository")?;
    Ok(relative.to_string_lossy().replace('\\', "/"))
}

fn borders(table: &BTreeMap<String, Row>, members: &BTreeMap<String, Member>) -> Vec<String> {
    let mut findings = Vec::new();
    for name in table.keys().filter(|name| !members.contains_key(*name)) {
        findings.push(format!(
            "{name} has a row in ARCHITECTURE.md and is not a workspace member; remove the row, or add the crate to Cargo.toml"
        ));
    }
    for (name, member) in members
        .iter()
        .filter(|(name, _)| !OUTSIDE.contains(&name.as_str()))
    {
        let Some(row) = table.get(name) else {
            findings.push(format!(
                "the crate {name} has no row in ARCHITECTURE.md; add one"
            ));
            continue;
        };
        for used in &member.uses {
            let library = members.get(used).is_some_and(|used| used.has_library);
            if !(row.may_use.contains(used) || (row.all_libraries && library)) {
                findings.push(format!(
                    "{name} uses {used}, which its row in ARCHITECTURE.md does not allow; remove the dependency, or add it to the row"
                ));
            }
        }
    }
    findings
}

/// The forbidden crates and names of a crate, each word as far as it can be checked.
fn ignorance(repo: &Repo, name: &str, row: &Row, member: &Member) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    if row.never.is_empty() {
        return Ok(findings);
    }
    let known = tree(repo, &member.package)?;
    let sources = sources(repo, name)?;
    for never in &row.never {
        let Some(word) = WORDS.iter().find(|word| word.word == never) else {
            let file = file!();
            findings.push(format!(
                "ARCHITECTURE.md: {name} never knows `{never}`, which {file} does not define; add the word to it"
            ));
            continue;
        };
        let direct = word
            .direct
            .iter()
            .filter(|package| member.foreign.contains(**package));
        let anywhere = word
            .anywhere
            .iter()
            .filter(|package| known.contains(**package));
        for package in direct.chain(anywhere) {
            findings.push(format!(
                "{name} must not know {never}, but depends on {package}"
            ));
        }
        for (file, text) in &sources {
            for found in word.sources.iter().filter(|word| text.contains(**word)) {
                findings.push(format!(
                    "{}: {name} must not know {never}, but contains {found}",
                    file.display()
                ));
            }
        }
    }
    Ok(findings)
}

/// The packages that a crate is built from when it is built alone: in the workspace as a whole, features that others
/// turn on would show as its own.
fn tree(repo: &Repo, package: &str) -> Result<BTreeSet<String>> {
    let text = tree_alone(repo, package, "normal,no-proc-macro", "{p}")?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

/// The code of a crate, without comments, strings and tests.
fn sources(repo: &Repo, name: &str) -> Result<Vec<(PathBuf, String)>> {
    let folder = Path::new(name).join("src");
    let of_crate = |file: &PathBuf| file.starts_with(&folder) && source::is_rust(file);
    repo.files()?
        .into_iter()
        .filter(of_crate)
        .map(|file| {
            let text = fs::read_to_string(repo.path(&file))?;
            Ok((file, source::code(source::without_tests(&text))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "text\n| crate | job | may use of ours | never knows |\n|---|---|---|---|\n\
        | `crds` | types | - | a client |\n| `operator` | all | all libraries | |\n\ntext\n";

    fn member(has_library: bool, uses: &[&str]) -> Member {
        Member {
            package: String::new(),
            has_library,
            foreign: BTreeSet::new(),
            uses: uses.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_new_arrow_or_crate_is_found() {
        let table = table(TEXT);
        assert_eq!(table["crds"].never, ["a client"]);
        let mut members = BTreeMap::from([
            ("crds".to_owned(), member(true, &[])),
            ("operator".to_owned(), member(true, &["crds"])),
        ]);
        assert_eq!(borders(&table, &members), Vec::<String>::new());
        members.insert("crds".to_owned(), member(true, &["operator"]));
        members.insert("new".to_owned(), member(true, &[]));
        assert_eq!(borders(&table, &members).len(), 2);
    }
}
