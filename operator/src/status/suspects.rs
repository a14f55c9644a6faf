//! The faulty objects among the suspects of a rejected resource.

/// Finds the suspects that Envoy rejects: it halves the suspects, and asks about the resource with each half in force alone.
/// `rejects` returns whether Envoy rejects the resource with only these suspects in force, and `None` while that is not known;
/// then the result is `None`, too.
///
/// # Assumptions
/// Envoy rejects the resource with all suspects in force, and accepts it with none.
///
/// # Guarantees
/// Every suspect that Envoy rejects alone is found, by some `2 k log n` questions for `k` of `n`. Suspects that Envoy rejects only
/// together are not: where no half is rejected, nothing is found.
pub(super) fn faulty<'s, T>(
    suspects: &'s [T],
    rejects: &mut dyn FnMut(&[T]) -> Option<bool>,
) -> Option<Vec<&'s T>> {
    match suspects {
        [] => return Some(Vec::new()),
        [only] => return Some(vec![only]),
        _ => {}
    }
    let (first, second) = suspects.split_at(suspects.len() / 2);
    let (mut found, mut open) = (Vec::new(), false);
    for half in [first, second] {
        let of_half = match rejects(half) {
            Some(true) => faulty(half, rejects),
            Some(false) => Some(Vec::new()),
            None => None,
        };
        match of_half {
            Some(more) => found.extend(more),
            None => open = true,
        }
    }
    (!open).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ALL: [u32; 20] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
    ];

    fn found(bad: &[u32]) -> (Vec<u32>, usize) {
        let mut questions = 0;
        let found = faulty(&ALL, &mut |half| {
            questions += 1;
            Some(half.iter().any(|one| bad.contains(one)))
        });
        (found.unwrap().into_iter().copied().collect(), questions)
    }

    #[test]
    fn every_faulty_one_is_found_with_few_questions() {
        for one in ALL {
            let (found, questions) = found(&[one]);
            assert_eq!(found, [one]);
            assert!(questions <= 10, "{questions}");
        }
        assert_eq!(found(&[3, 4, 19]).0, [3, 4, 19]);
        assert_eq!(found(&ALL).0, ALL);
    }

    #[test]
    fn suspects_rejected_only_together_are_not_found() {
        let together = faulty(&ALL, &mut |half| {
            Some(half.contains(&3) && half.contains(&17))
        });
        assert_eq!(together, Some(vec![]));
    }

    #[test]
    fn the_search_goes_on_with_each_answer() {
        let mut known: BTreeMap<Vec<u32>, bool> = BTreeMap::new();
        for _ in 0..ALL.len() {
            let mut asked = Vec::new();
            let found = faulty(&ALL, &mut |half| {
                let answer = known.get(half).copied();
                if answer.is_none() {
                    asked.push(half.to_vec());
                }
                answer
            });
            if let Some(found) = found {
                assert_eq!(found, [&7]);
                return;
            }
            assert!(!asked.is_empty(), "the search waits for nothing");
            for half in asked {
                let answer = half.contains(&7);
                known.insert(half, answer);
            }
        }
        panic!("the search does not end");
    }
}
