//! Names that are probably slips of the pen.

/// Shorter names are too often near each other.
const SHORTEST: usize = 3;

/// Whether two words differ by one letter, by two that changed places, or by case alone.
pub(crate) fn is_near(one: &str, other: &str) -> bool {
    if same_but_for_case(one, other) {
        return !one.is_empty();
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let same = |a: &[char], b: &[char]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let front = same(&one, &other);
    let back = one
        .iter()
        .rev()
        .zip(other.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let shorter = one.len().min(other.len());
    let longer = one.len().max(other.len());
    let rest = longer.saturating_sub((front + back).min(longer));
    let swapped = || {
        rest == 2 && one.len() == other.len() && {
            let pair = |text: &[char]| text.get(front..front + 2).map(<[char]>::to_vec);
            let mut turned = pair(&one).unwrap_or_default();
            turned.reverse();
            Some(turned) == pair(&other)
        }
    };
    shorter > 0 && (longer - shorter <= 1 && rest <= 1 || swapped())
}

/// Nearly all names are ASCII, and need no copies.
fn same_but_for_case(one: &str, other: &str) -> bool {
    let ascii = one.is_ascii() && other.is_ascii();
    one.eq_ignore_ascii_case(other) || !ascii && one.to_lowercase() == other.to_lowercase()
}

/// Whether a name is another one by mistake. Versions of a name, such as `api-1` and `api-2`, are names of their own.
pub(crate) fn is_slip(known: &str, account: &str) -> bool {
    let letters = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    known.len().min(account.len()) >= SHORTEST
        && is_near(known, account)
        && letters(known) != letters(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_differ_by_one_slip() {
        for (one, other) in [
            ("cart", "cartt"),
            ("cart", "carr"),
            ("cart", "Cart"),
            ("cart", "catr"),
            ("api", "apii"),
            ("a", "b"),
        ] {
            assert!(is_near(one, other) && is_near(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("cart", "card-s"),
            ("cart", "shop"),
            ("", "a"),
            ("cart", "xartx"),
        ] {
            assert!(!is_near(one, other), "{one} {other}");
        }
    }

    #[test]
    fn versions_of_a_name_and_short_names_are_not_slips() {
        for (known, account, slip) in [
            ("web", "wbe", true),
            ("checkout", "chekout", true),
            ("api-v1", "api-v2", false),
            ("api", "api2", false),
            ("a", "b", false),
            ("web", "cart", false),
        ] {
            assert_eq!(is_slip(known, account), slip, "{known} {account}");
        }
    }
}
