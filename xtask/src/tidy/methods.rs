//! The functions that the types of a Rust source have in it, and those that it calls on types by name or by `self`.

use std::collections::BTreeSet;

use super::imports::{Token, tokens};

/// A type and its function, by their names.
pub type Method = (String, String);

/// The inherent functions of a source and its calls of such functions.
#[derive(Default)]
pub struct Methods {
    pub declared: BTreeSet<Method>,
    pub called: BTreeSet<Method>,
}

/// Reads code without comments and strings.
pub fn methods(code: &str) -> Methods {
    let tokens = tokens(code);
    let mut found = Methods::default();
    let mut rest = &tokens[..];
    let mut own = Block::default();
    let mut depth = 0_usize;
    let mut before = Token::Mark(';');
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (Token::Word("impl"), _) if depth == 0 && begins_item(before) => own = Block::of(after),
            (Token::Mark('{'), _) => depth += 1,
            (Token::Mark('}'), _) => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    own = Block::default();
                }
            }
            (Token::Word("fn"), [Token::Word(name), ..]) if depth == 1 && own.inherent => {
                found.declared.insert((own.of.clone(), (*name).to_owned()));
            }
            (
                Token::Word("self"),
                [
                    Token::Mark('.'),
                    Token::Word(name),
                    Token::Mark('(') | Token::Path,
                    ..,
                ],
            ) => {
                found.called.insert((own.of.clone(), (*name).to_owned()));
            }
            (Token::Word(of), [Token::Path, Token::Word(name), ..]) => {
                let of = if *of == "Self" { &own.of } else { *of };
                found.called.insert((of.to_owned(), (*name).to_owned()));
            }
            _ => {}
        }
        before = *first;
        rest = after;
    }
    found
}

/// Whether an item may follow a token; else `impl` begins a type.
fn begins_item(before: Token<'_>) -> bool {
    matches!(before, Token::Mark(';' | '}' | ']') | Token::Word("unsafe"))
}

/// The `impl` block that a source is in.
#[derive(Default)]
struct Block {
    of: String,
    inherent: bool,
}

impl Block {
    /// Reads the tokens after `impl`.
    fn of(header: &[Token<'_>]) -> Self {
        let mut block = Self {
            of: String::new(),
            inherent: true,
        };
        let mut generics = 0_usize;
        let mut before = None;
        for token in header {
            match token {
                Token::Mark('<') => generics += 1,
                // The arrow of a function type ends nothing.
                Token::Mark('>') if before != Some(&Token::Mark('-')) => {
                    generics = generics.saturating_sub(1);
                }
                Token::Mark('{') | Token::Word("where") if generics == 0 => break,
                Token::Word("for") if generics == 0 => block.inherent = false,
                Token::Word(name) if generics == 0 => block.of = (*name).to_owned(),
                Token::Word(_) | Token::Path | Token::Mark(_) => {}
            }
            before = Some(token);
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &BTreeSet<Method>) -> Vec<String> {
        of.iter().map(|(of, name)| format!("{of}.{name}")).collect()
    }

    #[test]
    fn functions_belong_to_the_type_of_their_block() {
        let code = "
            impl<F: Fn() -> u8> a::B<F> where F: C { fn d(&self) { fn e() {} self.g(); self.h.i() } fn j() { Self::k() } }
            impl<'a> L for &'a M { fn n(&self) { self.o::<u8>() } }
            fn p() -> impl Fn() { fn u() {} Q::r(); s.t() }
            trait V { fn w(&self); }
        ";
        let found = methods(code);
        assert_eq!(pairs(&found.declared), ["B.d", "B.j"]);
        assert_eq!(pairs(&found.called), ["B.g", "B.k", "M.o", "Q.r", "a.B"]);
    }
}
