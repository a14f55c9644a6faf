//! The module paths that a Rust source names.

/// A path of a `use` declaration, or one in an expression or type that starts with `crate`, `self` or `super`.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// The segments; `*` is the last one of a glob.
    pub path: Vec<String>,
    /// The name that a `use` declaration brings into the module.
    pub name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Mark(char),
}

/// Returns the paths in code without comments and strings.
pub fn imports(code: &str) -> Vec<Import> {
    let tokens = tokens(code);
    let mut rest = &tokens[..];
    let mut found = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after.first()) {
            (Token::Word("use"), Some(Token::Word(_) | Token::Mark('{'))) => {
                tree(after, &[], &mut found)
            }
            (Token::Word("crate" | "self" | "super"), Some(Token::Path)) => plain(rest, &mut found),
            _ => after,
        };
    }
    found
}

/// Returns the names of the items that a module declares itself.
pub fn items(code: &str) -> Vec<&str> {
    const ITEMS: [&str; 9] = [
        "struct", "enum", "fn", "const", "static", "trait", "type", "union", "mod",
    ];
    let tokens = tokens(code);
    let pairs = tokens.iter().zip(tokens.iter().skip(1));
    let named = pairs.filter_map(|pair| match pair {
        (Token::Word(item), Token::Word(name)) if ITEMS.contains(item) => Some(*name),
        _ => None,
    });
    named.collect()
}

/// Reads a tree of a `use` declaration. Returns the rest.
fn tree<'t, 'a>(
    mut rest: &'t [Token<'a>],
    prefix: &[&'a str],
    found: &mut Vec<Import>,
) -> &'t [Token<'a>] {
    let mut path = prefix.to_vec();
    let mut name = None;
    while let Some((first, after)) = rest.split_first() {
        match first {
            Token::Path => {}
            Token::Word("as") => {
                if let Some((Token::Word(alias), after)) = after.split_first() {
                    name = Some(*alias);
                    rest = after;
                    continue;
                }
            }
            Token::Word(word) => path.push(word),
            Token::Mark('*') => path.push("*"),
            Token::Mark('{') => return group(after, &path, found),
            Token::Mark(_) => break,
        }
        rest = after;
    }
    // `a::{self}` is `a`.
    if path.last() == Some(&"self") && path.len() > 1 {
        path.pop();
    }
    found.push(Import {
        name: name.or(path.last().copied()).map(str::to_owned),
        path: path.into_iter().map(str::to_owned).collect(),
    });
    rest
}

fn group<'t, 'a>(
    mut rest: &'t [Token<'a>],
    prefix: &[&'a str],
    found: &mut Vec<Import>,
) -> &'t [Token<'a>] {
    loop {
        match rest.split_first() {
            Some((Token::Mark('}'), after)) => return after,
            Some((Token::Mark(','), after)) => rest = after,
            Some((Token::Word(_) | Token::Path | Token::Mark('{' | '*'), _)) => {
                rest = tree(rest, prefix, found);
            }
            Some((Token::Mark(_), _)) | None => return rest,
        }
    }
}

fn plain<'t, 'a>(mut rest: &'t [Token<'a>], found: &mut Vec<Import>) -> &'t [Token<'a>] {
    let mut path = Vec::new();
    while let Some((Token::Word(word), after)) = rest.split_first() {
        path.push((*word).to_owned());
        rest = after;
        match rest.split_first() {
            Some((Token::Path, after)) => rest = after,
            _ => break,
        }
    }
    found.push(Import { path, name: None });
    rest
}

/// The words and marks of code without comments and strings.
pub(super) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(first) {
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            tokens.extend(rest.get(..end).map(Token::Word));
            end
        } else if rest.starts_with("::") {
            tokens.push(Token::Path);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        let all = imports(code).into_iter();
        all.map(|import| {
            let path = import.path.join("::");
            match import.name {
                Some(name) if import.path.last() != Some(&name) => format!("{path} as {name}"),
                _ => path,
            }
        })
        .collect()
    }

    #[test]
    fn every_leaf_of_a_use_tree_is_a_path() {
        for (code, expected) in [
            ("use a::b;", vec!["a::b"]),
            ("pub(crate) use a::b as c;", vec!["a::b as c"]),
            (
                "use crate::{a::{self, b::*}, c as d,};",
                vec!["crate::a", "crate::a::b::*", "crate::c as d"],
            ),
            (
                "use {super::a, b};\nfn c() { super::d::e(); crate::F }",
                vec!["super::a", "b", "super::d::e", "crate::F"],
            ),
            (
                "let a: crate::b::C<self::d::E>;",
                vec!["crate::b::C", "self::d::E"],
            ),
        ] {
            assert_eq!(paths(code), expected, "{code}");
        }
    }

    #[test]
    fn items_are_found_by_their_keyword() {
        assert_eq!(
            items("pub struct A(B);\nconst fn c() {}\nimpl A {}"),
            ["A", "fn", "c"]
        );
    }
}
