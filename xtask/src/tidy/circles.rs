//! Circles of imports and calls among the modules of one folder: a reader of one of them has to read all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::imports::{Import, imports, items};
use super::methods::{Methods, methods};
use super::{lengths, source};
use crate::repo::Repo;

/// The path of a module from the root of its crate.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    file: PathBuf,
    imports: Vec<Import>,
    items: BTreeSet<String>,
    methods: Methods,
}

/// The modules of a crate.
type Modules = BTreeMap<ModulePath, Module>;

/// Within a folder, from each module to the modules that it uses, with a file that does.
type Edges = BTreeMap<String, BTreeMap<String, PathBuf>>;

/// Returns a finding for each circle.
///
/// # Errors
/// The files cannot be listed, or one cannot be read.
pub fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut crates: BTreeMap<PathBuf, Modules> = BTreeMap::new();
    for file in repo.files()? {
        let Some((root, path)) = place(&file) else {
            continue;
        };
        let text = fs::read_to_string(repo.path(&file))?;
        let module = Module::of(file, &text);
        crates.entry(root).or_default().insert(path, module);
    }
    let mut findings = Vec::new();
    for (root, modules) in &crates {
        for (folder, edges) in folders(modules) {
            let folder = root.join(folder.join("/")).display().to_string();
            let folder = folder.trim_end_matches('/').to_owned();
            for circle in circles(&edges) {
                findings.push(report(&folder, &circle, &edges));
            }
        }
    }
    Ok(findings)
}

/// The folder of a crate's sources, and the path of a file's module; `None` for other files and for tests.
fn place(file: &Path) -> Option<(PathBuf, ModulePath)> {
    let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
    let src = parts.iter().position(|part| *part == "src")?;
    if !source::is_rust(file) || lengths::is_test(file) {
        return None;
    }
    let (root, inner) = (parts.get(..=src)?, parts.get(src + 1..)?);
    let mut path: ModulePath = inner.iter().map(|part| (*part).to_owned()).collect();
    let stem = path.pop()?.trim_end_matches(".rs").to_owned();
    match (stem.as_str(), path.is_empty()) {
        ("mod", _) | ("lib", true) => {}
        _ => path.push(stem),
    }
    Some((root.iter().collect(), path))
}

impl Module {
    fn of(file: PathBuf, text: &str) -> Self {
        let code = source::code(source::without_tests(text));
        Self {
            file,
            imports: imports(&code),
            items: items(&code).into_iter().map(str::to_owned).collect(),
            methods: methods(&code),
        }
    }
}

/// The uses among siblings, folder by folder.
fn folders(modules: &Modules) -> BTreeMap<ModulePath, Edges> {
    let mut folders: BTreeMap<ModulePath, Edges> = BTreeMap::new();
    for (from, module) in modules {
        let imports = module.imports.iter();
        let imported = imports.filter_map(|import| target(modules, from, &import.path, 0));
        for to in imported.chain(called(modules, from, module)) {
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                let folder = from.iter().take(common).cloned().collect();
                let edges = folders.entry(folder).or_default();
                let users = edges.entry(a.clone()).or_default();
                users
                    .entry(b.clone())
                    .or_insert_with(|| module.file.clone());
            }
        }
    }
    folders
}

/// The siblings that declare the functions of types which a module calls. A type that several modules implement needs no
/// import for that. Of two siblings with the same function of a type of the same name neither counts: they are two types.
fn called(modules: &Modules, from: &ModulePath, module: &Module) -> Vec<ModulePath> {
    let is_sibling = |path: &ModulePath| {
        path != from
            && path.len() == from.len()
            && path.split_last().map(|(_, folder)| folder)
                == from.split_last().map(|(_, folder)| folder)
    };
    let siblings: Vec<_> = modules
        .iter()
        .filter(|(path, _)| is_sibling(path))
        .collect();
    let own = &module.methods;
    let others = own.called.difference(&own.declared);
    let declaring = others.filter_map(|method| {
        let mut declaring = siblings
            .iter()
            .filter(|(_, sibling)| sibling.methods.declared.contains(method));
        let first = declaring.next().filter(|_| declaring.next().is_none())?;
        Some(first.0.clone())
    });
    declaring.collect()
}

/// The module that declares the item of a path, re-exports followed; `None` for a path out of the crate.
fn target(modules: &Modules, from: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
    let mut at = from.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => at.clear(),
        "self" => {}
        "super" => _ = at.pop(),
        first => {
            let mut child = at.clone();
            child.push(first.to_owned());
            if !modules.contains_key(&child) {
                return None;
            }
            at = child;
        }
    }
    rest = rest.get(1..)?;
    while let Some((name, after)) = rest.split_first() {
        if name == "super" {
            at.pop();
            rest = after;
            continue;
        }
        at.push(name.clone());
        if !modules.contains_key(&at) {
            at.pop();
            return Some(declaring(modules, at, name, depth));
        }
        rest = after;
    }
    Some(at)
}

/// The module that declares a name of a module, which may only re-export it.
fn declaring(modules: &Modules, at: ModulePath, name: &str, depth: usize) -> ModulePath {
    const DEEPEST: usize = 8;
    let Some(module) = modules.get(&at).filter(|_| depth < DEEPEST) else {
        return at;
    };
    let named = module
        .imports
        .iter()
        .filter(|import| import.name.as_deref() == Some(name));
    for import in named {
        if let Some(found) = target(modules, &at, &import.path, depth + 1) {
            return found;
        }
    }
    let globs = module
        .imports
        .iter()
        .filter(|import| import.name.as_deref() == Some("*"));
    for import in globs {
        let path = import.path.iter().take(import.path.len().saturating_sub(1));
        let path: Vec<String> = path.cloned().collect();
        let found = target(modules, &at, &path, depth + 1).filter(|found| *found != at);
        let declares = |found: &ModulePath| {
            modules
                .get(found)
                .is_some_and(|module| module.items.contains(name))
        };
        if let Some(found) = found.filter(declares) {
            return found;
        }
    }
    at
}

/// The largest groups of modules that reach each other.
fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let reaches = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut pending = vec![from];
        while let Some(at) = pending.pop() {
            let next = edges.get(at).into_iter().flat_map(BTreeMap::keys);
            pending.extend(next.filter(|next| reached.insert((*next).clone())));
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        edges.keys().map(|from| (from, reaches(from))).collect();
    let mut circles = BTreeSet::new();
    for (from, all) in &reached {
        if all.contains(*from) {
            let back = |to: &&String| reached.get(to).is_some_and(|all| all.contains(*from));
            circles.insert(all.iter().filter(back).cloned().collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

fn report(folder: &str, circle: &[String], edges: &Edges) -> String {
    let mut lines = vec![format!("{folder}: {} use each other:", circle.join(", "))];
    for from in circle {
        let used = edges.get(from).into_iter().flatten();
        for (to, file) in used.filter(|(to, _)| circle.contains(to)) {
            lines.push(format!("  {from} uses {to} in {}", file.display()));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let modules = files.iter().filter_map(|(file, text)| {
            let (_, path) = place(Path::new(file))?;
            Some((path, Module::of(PathBuf::from(file), text)))
        });
        let modules: Modules = modules.collect();
        let folders = folders(&modules);
        let all = folders.iter().flat_map(|(folder, edges)| {
            let circles = circles(edges).into_iter();
            circles.map(move |circle| format!("{}: {}", folder.join("/"), circle.join(" ")))
        });
        all.collect()
    }

    #[test]
    fn a_circle_is_found_in_its_folder_and_through_re_exports() {
        for (files, circles) in [
            // One way is not a circle.
            (
                vec![("x/src/a.rs", "use crate::b::B;"), ("x/src/b.rs", "")],
                vec![],
            ),
            (
                vec![
                    ("x/src/a.rs", "use crate::b::B;"),
                    ("x/src/b.rs", "fn c() { crate::a::d() }"),
                ],
                vec![": a b"],
            ),
            // The folder re-exports the name of a sibling.
            (
                vec![
                    ("x/src/a/mod.rs", "mod b;\nmod c;\npub use b::B;\nuse c::*;"),
                    ("x/src/a/b.rs", "use super::C;"),
                    ("x/src/a/c.rs", "use super::B;\npub struct C;"),
                ],
                vec!["a: b c"],
            ),
            // Deep modules count for their folders.
            (
                vec![
                    ("x/src/a/mod.rs", ""),
                    ("x/src/a/b.rs", "use crate::c::d::D;"),
                    ("x/src/c/mod.rs", ""),
                    ("x/src/c/d.rs", "use super::super::a::b::B;"),
                ],
                vec![": a c"],
            ),
            // A child may use its parent's items.
            (
                vec![
                    ("x/src/a/mod.rs", "mod b;\nuse b::B;\nstruct A;"),
                    ("x/src/a/b.rs", "use super::A;"),
                ],
                vec![],
            ),
            // A type has its methods in two files: the call needs no import.
            (
                vec![
                    ("x/src/a.rs", "impl A { fn b(&self) { self.c() } }"),
                    ("x/src/b.rs", "use crate::a::A;\nimpl A { fn c(&self) {} }"),
                ],
                vec![": a b"],
            ),
            // The method may be that of either type of this name.
            (
                vec![
                    ("x/src/a.rs", "impl A { fn b(&self) { self.c() } }"),
                    ("x/src/b.rs", "use crate::a::A;\nimpl A { fn c(&self) {} }"),
                    ("x/src/c.rs", "impl A { fn c(&self) {} }"),
                ],
                vec![],
            ),
            // The method is of another value.
            (
                vec![
                    ("x/src/a.rs", "impl A { fn b(&self) { self.d.c() } }"),
                    ("x/src/b.rs", "use crate::a::A;\nimpl A { fn c(&self) {} }"),
                ],
                vec![],
            ),
            // Tests may use anything.
            (
                vec![
                    ("x/src/a.rs", "use crate::b::B;"),
                    (
                        "x/src/b.rs",
                        "\n#[cfg(test)]\nmod tests { use crate::a::A; }",
                    ),
                ],
                vec![],
            ),
        ] {
            assert_eq!(found(&files), circles, "{files:?}");
        }
    }

    #[test]
    fn a_circle_of_three_is_one() {
        let files = [
            ("x/src/a.rs", "use crate::b::B;"),
            ("x/src/b.rs", "use crate::{c::C, d::D};"),
            ("x/src/c.rs", "use crate::a::A;"),
            ("x/src/d.rs", ""),
        ];
        assert_eq!(found(&files), [": a b c"]);
    }
}
