//! The figures of two gateways as one text: each family stands once, with the samples of both.

/// Puts the samples of `second` beside those of `first`. Both are OpenMetrics texts that name the same families.
pub(crate) fn merged(first: &str, second: &str) -> String {
    let mut families: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in first.lines().chain(second.lines()).filter(|line| *line != END) {
        let name = family(line);
        let place = match families.iter().position(|(known, _)| *known == name) {
            Some(place) => place,
            None => {
                families.push((name, Vec::new()));
                families.len() - 1
            }
        };
        let lines = &mut families[place].1;
        if !line.starts_with('#') || !lines.contains(&line) {
            lines.push(line);
        }
    }
    let mut text = String::with_capacity(first.len() + second.len());
    for line in families.iter().flat_map(|(_, lines)| lines).copied().chain([END]) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The family a line belongs to: what its name has in common with its description.
fn family(line: &str) -> &str {
    let name = match line.strip_prefix("# ") {
        Some(about) => about.split(' ').nth(1).unwrap_or_default(),
        None => line.split(['{', ' ']).next().unwrap_or_default(),
    };
    ["_total", "_bucket", "_sum", "_count", "_created"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

const END: &str = "# EOF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_family_stand_together_and_its_description_once() {
        let of = |environment: &str| {
            format!(
                "# HELP actions Outcomes.\n# TYPE actions counter\nactions_total{{e=\"{environment}\"}} 1\n\
                 # HELP step_seconds Time.\n# TYPE step_seconds histogram\nstep_seconds_sum{{e=\"{environment}\"}} 2\n\
                 step_seconds_bucket{{e=\"{environment}\",le=\"1\"}} 3\n# EOF\n"
            )
        };
        insta::assert_snapshot!(merged(&of("production"), &of("sandbox")), @r#"
        # HELP actions Outcomes.
        # TYPE actions counter
        actions_total{e="production"} 1
        actions_total{e="sandbox"} 1
        # HELP step_seconds Time.
        # TYPE step_seconds histogram
        step_seconds_sum{e="production"} 2
        step_seconds_bucket{e="production",le="1"} 3
        step_seconds_sum{e="sandbox"} 2
        step_seconds_bucket{e="sandbox",le="1"} 3
        # EOF
        "#);
    }
}
