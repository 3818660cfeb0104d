//! Reads numbers as clients send them. cache_upsert() takes a cost and a score as double precision, because PostgreSQL
//! casts numbers of every type to it by itself. They are stored as numeric.

use pgrx::datum::AnyNumeric;

/// Returns the shortest decimal number whose nearest double is `number`. Up to 15 digits, and so for each multiple of a
/// millionth up to 10^9, it is what the client wrote. PostgreSQL's own cast keeps 15 digits, one too few to round by.
pub fn numeric(number: f64) -> AnyNumeric {
    // A number so large is refused, and the error shows it with an exponent.
    let text = if number.abs() < 1e16 { number.to_string() } else { format!("{number:e}") };
    AnyNumeric::try_from(text.as_str()).expect("numeric reads whatever a double is")
}

/// Reads an integer from a number of a jsonb, which has no exponent, and keeps the zeros that it was written with.
pub fn whole_number(text: &str) -> Option<i32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().all(|digit| digit == b'0') { whole.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_whole_number_is_one_whatever_zeros_follow(number in any::<i32>(), zeros in 0_usize..20) {
            let zeros = "0".repeat(zeros);
            prop_assert_eq!(whole_number(&number.to_string()), Some(number));
            prop_assert_eq!(whole_number(&format!("{number}.{zeros}")), Some(number));
            prop_assert_eq!(whole_number(&format!("{number}.{zeros}1")), None);
        }
    }

    #[test]
    fn the_decimal_number_of_a_double_is_the_shortest() {
        for text in ["0.0123", "999999999.999999", "1000000000", "0.0000005"] {
            assert_eq!(text.parse::<f64>().unwrap().to_string(), text);
        }
    }
}
