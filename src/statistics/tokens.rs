//! Tokens: what answers have cost and hits have saved, in the application's unit, to a millionth. Shared memory keeps a sum in
//! two counters, whole units and millionths, which are not added to at the same moment.

use pgrx::datum::AnyNumeric;

/// The greatest cost of an answer. A counter of units holds nine thousand million times as much.
pub const MOST_OF_AN_ANSWER: i64 = 1_000_000_000;

/// A SQL expression: the cost of an entry in millionths, as bigint, NULL when it is not known. It is limited to what a cost can
/// be, because the column of an adopted table may hold anything.
pub const MILLIONTHS: &str = "pg_catalog.int8(pg_catalog.numeric_mul(pg_catalog.numeric_larger(0, \
     pg_catalog.numeric_smaller(1000000000, CAST(token_cost AS pg_catalog.numeric))), 1000000))";

pub const MILLION: u64 = 1_000_000;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tokens {
    pub units: u64,
    /// In a sum they may exceed a million.
    pub millionths: u64,
}

impl Tokens {
    /// Converts from what [`MILLIONTHS`] has returned.
    pub fn of_cost(millionths: i64) -> Self {
        let millionths = millionths.max(0).unsigned_abs();
        Self { units: millionths / MILLION, millionths: millionths % MILLION }
    }

    /// Converts a value of the column token_cost as [`MILLIONTHS`] does. A double holds as many digits as a cost has.
    pub fn of_double(cost: f64) -> Self {
        let cost = cost.min(MOST_OF_AN_ANSWER as f64).max(0.0);
        Self::of_cost((cost * MILLION as f64).round() as i64)
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            units: self.units.saturating_add(other.units),
            millionths: self.millionths.saturating_add(other.millionths),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self::of_total(self.total().saturating_sub(other.total()))
    }

    /// Returns the same sum with less than a million millionths.
    pub fn carried(self) -> Self {
        Self::of_total(self.total())
    }

    fn of_total(millionths: u128) -> Self {
        let part = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        Self { units: part(millionths / u128::from(MILLION)), millionths: part(millionths % u128::from(MILLION)) }
    }

    /// Returns the sum in millionths.
    pub fn total(self) -> u128 {
        u128::from(self.units) * u128::from(MILLION) + u128::from(self.millionths)
    }

    pub fn numeric(self) -> AnyNumeric {
        let Self { units, millionths } = self.carried();
        let text = format!("{units}.{millionths:06}");
        AnyNumeric::try_from(text.trim_end_matches('0').trim_end_matches('.')).expect("a decimal number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn costs_add_up(costs in proptest::collection::vec(0..=MOST_OF_AN_ANSWER * 1_000_000, 0..100), less in 0usize..100) {
            let sum = |costs: &[i64]| costs.iter().map(|cost| Tokens::of_cost(*cost)).fold(Tokens::default(), Tokens::plus);
            let total = |costs: &[i64]| costs.iter().map(|cost| cost.unsigned_abs() as u128).sum::<u128>();
            let (first, rest) = costs.split_at(less.min(costs.len()));
            prop_assert_eq!(sum(&costs).total(), total(&costs));
            prop_assert_eq!(sum(&costs).minus(sum(first)).total(), total(rest));
        }
    }

    #[test]
    fn what_is_less_than_nothing_is_nothing() {
        assert_eq!(Tokens::of_cost(-1), Tokens::default());
        assert_eq!(Tokens::of_cost(i64::MIN), Tokens::default());
    }
}
