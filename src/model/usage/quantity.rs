//! Quantities: decimals, never floats.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;

use crate::error::Violation;

/// The most digits before the point.
const WHOLE_DIGITS: usize = 15;
/// The most digits after the point.
const FRACTION_DIGITS: usize = 9;

/// How much an event counts: at most 15 digits before and 9 after the point, not negative.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quantity(Decimal);

impl Quantity {
    /// What an event counts that says nothing.
    pub const ONE: Self = Self(Decimal::ONE);

    /// Reads digits with at most one point among them; empty means 1.
    pub fn parse(field: &str, text: &str) -> Result<Self, Violation> {
        if text.is_empty() {
            return Ok(Self::ONE);
        }
        let good = || {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let is_number = |digits: &str, most: usize| {
                (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
            };
            if !is_number(whole, WHOLE_DIGITS) || !is_number(fraction, FRACTION_DIGITS) {
                return None;
            }
            let fraction = fraction.trim_end_matches('0');
            let digits = whole.bytes().chain(fraction.bytes()).map(|digit| i128::from(digit - b'0'));
            let units = digits.fold(0, |units, digit| units * 10 + digit);
            Decimal::try_from_i128_with_scale(units, u32::try_from(fraction.len()).ok()?).ok()
        };
        good().map(Self).ok_or_else(|| {
            let rule = format!(
                "must be a decimal number of at most {WHOLE_DIGITS} digits, and {FRACTION_DIGITS} after the point"
            );
            Violation::new(field, rule)
        })
    }

    /// A whole one; `None` beyond 15 digits.
    #[must_use]
    pub fn whole(units: u64) -> Option<Self> {
        Self::parse("units", &units.to_string()).ok()
    }

    /// The next whole number.
    #[must_use]
    pub fn rounded_up(self) -> u64 {
        // At most 15 digits.
        self.0.ceil().to_u64().unwrap_or(u64::MAX)
    }

    /// The number.
    #[must_use]
    pub const fn decimal(self) -> Decimal {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("", "1"),
            ("0", "0"),
            ("3", "3"),
            ("0.125", "0.125"),
            ("0.10", "0.1"),
            ("007", "7"),
            ("999999999999999.999999999", "999999999999999.999999999"),
        ] {
            assert_eq!(Quantity::parse("quantity", text).unwrap().decimal().to_string(), expected);
        }
        for bad in ["-1", "+1", "1e3", ".5", "5.", ".", " 1", "1 ", "1,5", "1.2.3", "NaN", "٣", "0x1"] {
            assert!(Quantity::parse("quantity", bad).is_err(), "{bad}");
        }
        assert!(Quantity::parse("quantity", "1000000000000000").is_err());
        assert!(Quantity::parse("quantity", "0.0000000001").is_err());
    }

    #[test]
    fn whole_quantities() {
        let up = |text: &str| Quantity::parse("quantity", text).unwrap().rounded_up();
        assert_eq!((up("0"), up("2"), up("2.000000001"), up("999999999999999.9")), (0, 2, 3, 1_000_000_000_000_000));
        assert_eq!(Quantity::whole(1_500).unwrap().decimal().to_string(), "1500");
        assert!(Quantity::whole(999_999_999_999_999).is_some() && Quantity::whole(1_000_000_000_000_000).is_none());
    }

    proptest! {
        #[test]
        fn a_quantity_is_the_number_written(whole in 0_u64..1_000_000_000_000_000, nanos in 0_u32..1_000_000_000) {
            let text = format!("{whole}.{nanos:09}");
            let decimal = Quantity::parse("quantity", &text).unwrap().decimal();
            prop_assert_eq!(decimal, text.parse::<Decimal>().unwrap());
            prop_assert_eq!(decimal.normalize().scale(), decimal.scale());
        }

        #[test]
        fn nothing_else_is_taken(text in "\\PC{0,30}") {
            let is_plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            prop_assert!(is_plain || Quantity::parse("quantity", &text).is_err());
        }
    }
}
