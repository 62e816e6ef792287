//! Formats a number together with its noun, in the singular or the plural.

/// Returns `number` with its noun in the singular or the plural: `1 handler`, `2 handlers`, `0 handlers`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Returns the text of [`count`], followed by `is` or `are`: `1 handler is`, `2 handlers are`.
#[must_use]
pub fn count_are(number: usize, noun: &str) -> String {
    format!("{} {}", count(number, noun), if number == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!([0, 1, 2].map(|number| count(number, "rule")), ["0 rules", "1 rule", "2 rules"]);
        assert_eq!([0, 1].map(|number| count_are(number, "rule")), ["0 rules are", "1 rule is"]);
    }
}
