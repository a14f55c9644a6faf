//! The division of requests: the share of a backend without a ready endpoint goes to the others of its rule.

use super::rule::{Backend, Forward, WeightedBackend};
use super::weight::Weight;

/// The largest sum of weights where a share is moved. Envoy has 32 bits for it.
const WHOLE: u64 = 1_000_000_000;

/// A backend of a rule when requests are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    /// It has a ready endpoint.
    Ready,
    /// It has none: its share goes to those that are ready.
    Held,
    /// It is invalid: its share is refused, as Gateway API has it.
    Refused,
}

impl Forward {
    /// Returns the weights of the backends with the shares of those without a ready endpoint moved to those that have one. If none has one, the
    /// weights stay. The share of an invalid backend is the same before and after.
    pub(crate) fn weights_in_force(&self, is_ready: impl Fn(&Backend) -> bool) -> Vec<Weight> {
        let mut weights: Vec<Weight> = self.backends.iter().map(|of| of.weight).collect();
        // Alone, a backend has all requests, ready or not.
        if self.weighted().nth(1).is_none() {
            return weights;
        }
        let taker = |of: &WeightedBackend| match &of.backend {
            Backend::Invalid(_) => Taker::Refused,
            backend if is_ready(backend) => Taker::Ready,
            Backend::Service(..) | Backend::Subset(..) => Taker::Held,
        };
        let backends = self.backends.iter();
        let takers: Vec<(u32, Taker)> = backends
            .map(|of| match of.weight.in_force {
                0 => (0, Taker::Refused),
                weight => (weight, taker(of)),
            })
            .collect();
        let moved = weights_in_force(&takers).into_iter().flatten();
        for (weight, moved) in weights.iter_mut().zip(moved) {
            weight.in_force = moved;
        }
        weights
    }

    /// Sets the weights in force.
    pub(crate) fn divide(&mut self, is_ready: impl Fn(&Backend) -> bool) {
        let weights = self.weights_in_force(is_ready);
        for (backend, weight) in self.backends.iter_mut().zip(weights) {
            backend.weight = weight;
        }
    }
}

/// The weights in force. None: no weight moves.
fn weights_in_force(takers: &[(u32, Taker)]) -> Option<Vec<u32>> {
    let sum = |kind: Taker| {
        let of_kind = takers.iter().filter(|(_, taker)| *taker == kind);
        of_kind.map(|(weight, _)| u64::from(*weight)).sum::<u64>()
    };
    let (ready, held, refused) = (sum(Taker::Ready), sum(Taker::Held), sum(Taker::Refused));
    if ready == 0 || held == 0 {
        return None;
    }
    // Without a refused share the proportions of the others are all that counts.
    let (by_ready, by_refused) = match refused {
        0 => (1, 0),
        _ => (ready + held, ready),
    };
    let whole = takers.iter().map(|(weight, taker)| {
        let weight = u64::from(*weight);
        match taker {
            Taker::Ready => weight * by_ready,
            Taker::Refused => weight * by_refused,
            Taker::Held => 0,
        }
    });
    let whole: Vec<u64> = whole.collect();
    let divisor = match refused {
        0 => 1,
        _ => whole.iter().copied().fold(0, common_divisor),
    };
    let sum = whole.iter().sum::<u64>() / divisor.max(1);
    let fitted = |weight: u64| {
        let weight = weight / divisor.max(1);
        let least = u128::from(weight.min(1));
        let fitted = match sum > WHOLE {
            true => (u128::from(weight) * u128::from(WHOLE) / u128::from(sum)).max(least),
            false => u128::from(weight),
        };
        u32::try_from(fitted).unwrap_or(u32::MAX)
    };
    Some(whole.into_iter().map(fitted).collect())
}

const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_share_of_a_held_backend_goes_to_the_ready_ones_alone() {
        use Taker::{Held, Ready, Refused};
        type Case<'a> = (&'a [(u32, Taker)], Option<&'a [u32]>);
        let cases: [Case<'_>; 8] = [
            (&[(90, Ready), (10, Held)], Some(&[90, 0])),
            (&[(1, Ready), (1, Held), (3, Ready)], Some(&[1, 0, 3])),
            (&[(90, Ready), (10, Ready)], None),
            // Nothing is ready: Envoy answers 503 for the shares that are declared.
            (&[(90, Held), (10, Held)], None),
            (&[(1, Held), (1, Refused)], None),
            (&[(1, Ready), (1, Held), (1, Refused)], Some(&[2, 0, 1])),
            (
                &[(1, Ready), (1, Ready), (1, Held), (1, Refused)],
                Some(&[3, 3, 0, 2]),
            ),
            (&[(2, Ready), (1, Held), (0, Refused)], Some(&[2, 0, 0])),
        ];
        for (takers, expected) in cases {
            assert_eq!(weights_in_force(takers).as_deref(), expected, "{takers:?}");
        }
    }

    fn taker() -> impl Strategy<Value = Taker> {
        prop_oneof![Just(Taker::Ready), Just(Taker::Held), Just(Taker::Refused)]
    }

    proptest! {
        #[test]
        fn refused_shares_and_proportions_of_ready_ones_stay(
            takers in prop::collection::vec((1..=1_000_000_u32, taker()), 1..=32),
        ) {
            let Some(weights) = weights_in_force(&takers) else {
                return Ok(());
            };
            let share = |weights: &[u32], kind: Taker| {
                let all: f64 = weights.iter().copied().map(f64::from).sum();
                let of_kind = weights.iter().zip(&takers).filter(|(_, (_, taker))| *taker == kind);
                of_kind.map(|(weight, _)| f64::from(*weight)).sum::<f64>() / all
            };
            let declared: Vec<u32> = takers.iter().map(|(weight, _)| *weight).collect();
            prop_assert!(weights.iter().copied().map(u64::from).sum::<u64>() <= u64::from(u32::MAX));
            prop_assert_eq!(share(&weights, Taker::Held), 0.0);
            let refused = (share(&declared, Taker::Refused), share(&weights, Taker::Refused));
            prop_assert!((refused.0 - refused.1).abs() < 1e-6, "{:?}", refused);
            let ready = declared.iter().zip(&weights).zip(&takers);
            let ready = ready.filter(|(_, (_, taker))| *taker == Taker::Ready);
            let whole = share(&weights, Taker::Ready) / share(&declared, Taker::Ready);
            let sums = [&declared, &weights].map(|of| of.iter().copied().map(f64::from).sum::<f64>());
            for ((declared, weight), _) in ready {
                prop_assert!(*weight > 0);
                let shares = (f64::from(*declared) / sums[0] * whole, f64::from(*weight) / sums[1]);
                prop_assert!((shares.0 - shares.1).abs() < 1e-6, "{:?}", shares);
            }
        }
    }
}
