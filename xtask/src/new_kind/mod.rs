//! Writes the skeleton of a new kind of policy: four files by hand from here on, and its row in each of the two lists of kinds.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use heck::{ToSnakeCase, ToUpperCamelCase};

use crate::generate;
use crate::repo::Repo;

/// A list of kinds: its file, the end of its last row, and a new row.
struct List {
    file: &'static str,
    begin: &'static str,
    end: &'static str,
    row: &'static str,
}

const LISTS: [List; 2] = [
    List {
        file: "crds/src/lib.rs",
        begin: "\nkinds! {\n",
        end: "}\n",
        row: "    @Kind@: Namespaced [Accepted, ResolvedRefs, Conflicted, Programmed],\n",
    },
    List {
        file: "policy-compiler/src/kind.rs",
        begin: "macro_rules! with_policies {\n",
        end: "        }\n    };\n}\n",
        row: concat!(
            "            /// Our `@Kind@`.\n",
            "            @Kind@: Role::Policy, Namespaced, Some(KindResource::ours(\"@plural@\"))\n",
            "                => @fields@: heddle_crds::@Kind@Spec, [\"lastGood\"];\n",
        ),
    },
];

/// The files of a kind, with their templates.
const FILES: [(&str, &str); 4] = [
    ("crds/src/kinds/@kind@.rs", include_str!("type.tmpl")),
    (
        "policy-compiler/src/kinds/policies/@kind@.rs",
        include_str!("policy.tmpl"),
    ),
    (
        "policy-compiler/tests/golden/ok/@kind@/least.yaml",
        include_str!("golden.tmpl"),
    ),
    ("config/samples/@kind@.yaml", include_str!("sample.tmpl")),
];

const NEXT: &str = "
The kind compiles and has a status; it has no effect yet. Next:
1. crds/src/kinds/@kind@.rs: the fields, each with a sentence of help and bounds.
2. policy-compiler/src/kinds/policies/@kind@.rs: the checks, and the meaning as `Attachment`. Read it in policy-compiler/src/compile/,
   for example in routes.rs for requests to a service.
3. policy-compiler/tests/golden/ok/@kind@/least.yaml, and a case under err/@kind@/ for each problem; config/samples/@kind@.yaml.
4. cargo xtask gen (definition, rights, health checks, docs/api.md), then cargo xtask bless @kind@. Read the diff.
5. cargo xtask ci
";

/// Words of Rust that may look like the module of a kind.
const RESERVED: [&str; 24] = [
    "abstract", "as", "async", "box", "break", "const", "crate", "do", "else", "enum", "extern",
    "final", "for", "gen", "if", "loop", "macro", "match", "move", "static", "super", "trait",
    "type", "use",
];

/// The spellings of a kind's name.
struct Name {
    kind: String,
    snake: String,
    fields: String,
    plural: String,
}

impl Name {
    fn parse(kind: &str) -> Result<Self> {
        let snake = kind.to_snake_case();
        let letters = kind.bytes().all(|b| b.is_ascii_alphanumeric());
        ensure!(
            letters && !kind.is_empty() && snake.to_upper_camel_case() == kind,
            "{kind:?} is not a name of a kind; write it in upper camel case, for example RetryPolicy"
        );
        ensure!(
            kind.len() <= 40,
            "{kind:?} is too long; use at most 40 letters"
        );
        let fields = plural(&snake);
        ensure!(
            !RESERVED.contains(&snake.as_str()),
            "{snake:?}, the module of {kind}, is a word of Rust; choose another name"
        );
        Ok(Self {
            kind: kind.to_owned(),
            plural: fields.replace('_', ""),
            snake,
            fields,
        })
    }

    fn fill(&self, template: &str) -> String {
        template
            .replace("@Kind@", &self.kind)
            .replace("@kind@", &self.snake)
            .replace("@fields@", &self.fields)
            .replace("@plural@", &self.plural)
    }
}

/// The English plural of a noun, as Kubernetes forms it.
fn plural(noun: &str) -> String {
    let vowel = |text: &str| text.ends_with(['a', 'e', 'i', 'o', 'u']);
    match noun.strip_suffix('y').filter(|stem| !vowel(stem)) {
        Some(stem) => format!("{stem}ies"),
        None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

/// Writes the files of a kind and its rows. Nothing is written if the name is not usable.
///
/// # Errors
/// The name is not in upper camel case, is too long or a word of Rust, or belongs to a kind or file that exists; a list of kinds cannot be
/// found; or a file cannot be written.
pub fn run(repo: &Repo, kind: &str) -> Result<()> {
    let name = Name::parse(kind)?;
    let mut texts = Vec::new();
    for list in &LISTS {
        texts.push((list.file.to_owned(), with_row(repo, list, &name)?));
    }
    for (file, template) in FILES {
        let file = name.fill(file);
        ensure!(
            !repo.path(&file).exists(),
            "{file} exists already; choose another name, or remove the file"
        );
        texts.push((file, name.fill(template)));
    }
    for (file, text) in &texts {
        repo.write(file, text)?;
    }
    generate::write_modules(repo)?;
    print!("{}", name.fill(NEXT));
    Ok(())
}

/// The text of a file with the row of a kind at the end of the list.
fn with_row(repo: &Repo, list: &List, name: &Name) -> Result<String> {
    let file = list.file;
    let text =
        fs::read_to_string(repo.path(file)).with_context(|| format!("cannot read {file}"))?;
    let place = text.split_once(list.begin).and_then(|(before, rest)| {
        let (rows, after) = rest.split_once(list.end)?;
        Some((before, rows, after))
    });
    let Some((before, rows, after)) = place else {
        bail!(
            "{file} has no list of kinds between {:?} and {:?}",
            list.begin,
            list.end
        );
    };
    let known = |line: &str| line.trim_start().starts_with(&format!("{}:", name.kind));
    ensure!(
        !text.lines().any(known),
        "{} is a kind already; choose another name",
        name.kind
    );
    let row = name.fill(list.row);
    Ok([before, list.begin, rows, &row, list.end, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_plural_and_a_file() {
        for (kind, snake, plural) in [
            ("RetryPolicy", "retry_policy", "retrypolicies"),
            ("Gateway", "gateway", "gateways"),
            ("TrafficSplit", "traffic_split", "trafficsplits"),
            ("Mesh", "mesh", "meshes"),
        ] {
            let name = Name::parse(kind).ok();
            let found = name.map(|name| (name.snake, name.plural));
            assert_eq!(found, Some((snake.to_owned(), plural.to_owned())), "{kind}");
        }
    }

    #[test]
    fn a_name_that_is_not_in_upper_camel_case_is_refused() {
        for kind in [
            "",
            "retryPolicy",
            "Retry_Policy",
            "RETRY",
            "Retry-Policy",
            "../Retry",
            "Ünit",
        ] {
            let error = Name::parse(kind).err().map(|error| error.to_string());
            let error = error.unwrap_or_default();
            assert!(error.contains("is not a name of a kind"), "{kind}: {error}");
        }
    }
}
