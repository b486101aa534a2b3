//! Amounts of processor and memory as Kubernetes spells them. `apimachinery/pkg/api/resource`, Quantity.

/// A number of thousandths: `500m`, `2`, `1.5`, `1Gi`, `128M`, `1e3`. `None` for what is no amount, or is beyond 2⁶³.
pub fn thousandths(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10f64.powi(exponent)
        }
    };
    let value = number.parse::<f64>().ok()? * factor * 1000.0;
    // Within what a float counts exactly enough; amounts are compared with a machine's, not added up to a cent.
    (value.is_finite() && value < 9e18).then(|| value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        for (text, expected) in [
            ("500m", Some(500)),
            ("2", Some(2000)),
            ("1.5", Some(1500)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("128M", Some(128_000_000_000)),
            ("1e3", Some(1_000_000)),
            ("", None),
            ("Mi", None),
            ("-1", None),
            ("1.2.3", None),
            ("9Zi", None),
            ("1e999", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text}");
        }
    }
}
