//! `countersign catalog` and `countersign policy`: what an operator reads when a file is wrong, and when it is right.

use std::path::Path;

use crate::common::{Run, countersign, finished, run};

/// Run where the fixtures have short names.
fn here(args: &[&str]) -> Run {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program/fixtures");
    finished(countersign().current_dir(fixtures).args(args).output().unwrap())
}

#[test]
fn every_mistake_in_a_catalogue_is_shown_where_it_stands() {
    let told = here(&["catalog", "check", "catalogue"]);
    assert_eq!(told.code, 1);
    insta::assert_snapshot!("catalog_mistakes", told.stderr);
}

#[test]
fn every_mistake_in_a_policy_is_shown_where_it_stands() {
    let told = here(&["policy", "check", "policies"]);
    assert_eq!(told.code, 1);
    insta::assert_snapshot!("policy_mistakes", told.stderr);
}

#[test]
fn policies_that_permit_nothing_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let check = |policies: &str| {
        std::fs::write(folder.path().join("some.cedar"), policies).unwrap();
        run(["policy", "check", folder.path().to_str().unwrap()])
    };
    let ask = r#"@id("ask") @escalate forbid (principal, action, resource);"#;
    let told = check(ask);
    assert_eq!(told.code, 0, "odd is not wrong: {}", told.stderr);
    assert!(told.says("no policy permits anything"), "{}", told.stderr);
    let told = check(&format!("{ask} @id(\"all\") permit (principal, action, resource);"));
    assert!(told.code == 0 && !told.says("permits anything"), "{}", told.stderr);
}

#[test]
fn a_schema_that_somebody_else_wrote_is_checked_and_policies_see_what_is_mapped_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (catalogue, policies) = (folder.path().join("catalogue"), folder.path().join("policies"));
    std::fs::create_dir(&catalogue).unwrap();
    let (tool, catalogue) = (catalogue.join("commit.toml"), catalogue.to_str().unwrap());
    let file = include_str!("../../../action/tests/golden/git_commit.toml");
    // Who carries it out is checked elsewhere.
    let (file, _) = file.split_once("[binding]").unwrap();
    std::fs::write(&tool, file).unwrap();
    let told = run(["catalog", "check", catalogue]);
    assert!(told.code == 0 && told.stdout.contains("mcp/git/git_commit"), "{}{}", told.stdout, told.stderr);

    let schema = run(["policy", "schema", catalogue]).stdout;
    let (_, action) = schema.split_once("action \"mcp/git/git_commit\" in [\"Mcp\"]").unwrap();
    let (_, constraints) = action.split_once("constraints: ").unwrap();
    let (constraints, _) = constraints.split_once('}').unwrap();
    let seen: Vec<&str> = constraints.lines().map(str::trim).filter(|line| line.contains(':')).collect();
    assert_eq!(
        seen,
        ["\"repo_path\": String,", "\"files\"?: Set<String>,", "\"amend\"?: Bool,", "\"depth\"?: Long,"]
    );

    std::fs::create_dir(&policies).unwrap();
    let check = |member: &str| {
        let policy = format!(
            "permit (principal, action == Action::\"mcp/git/git_commit\", resource) when {{ context.constraints.{member} == \"x\" }};"
        );
        std::fs::write(policies.join("p.cedar"), policy).unwrap();
        run(["policy", "check", policies.to_str().unwrap(), "--catalogue", catalogue]).code
    };
    assert_eq!((check("repo_path"), check("message")), (0, 1));

    std::fs::write(&tool, file.replace("#/$defs/Person", "https://schemas.example/person")).unwrap();
    let told = run(["catalog", "check", catalogue]);
    assert!(
        told.code == 1 && told.says("leads out of the schema, and nothing is fetched"),
        "{}",
        told.stderr
    );
}

#[test]
fn policies_are_checked_against_the_catalogue_that_is_named_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let archetype = "name = \"NOTE\"\nreversible = true\n[schema.properties.text]\ntype = \"string\"\n";
    let policy = "@id(\"notes\") permit (principal, action == Action::\"NOTE\", resource);";
    for (place, file, text) in
        [("catalogue/default", "note.toml", archetype), ("policies/default", "note.cedar", policy)]
    {
        std::fs::create_dir_all(folder.path().join(place)).unwrap();
        std::fs::write(folder.path().join(place).join(file), text).unwrap();
    }
    let path = |place: &str| folder.path().join(place).display().to_string();
    for (policies, catalogue) in [
        ("policies", "catalogue"),
        ("policies/default", "catalogue"),
        ("policies/default", "catalogue/default"),
    ] {
        let told = run(["policy", "check", &path(policies), "--catalogue", &path(catalogue)]);
        assert_eq!(told.code, 0, "{policies} {catalogue}: {}", told.stderr);
    }
}

#[test]
fn a_policy_on_grants_is_checked_where_people_may_consent_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let policy = "@id(\"grants\") permit (principal, action == Action::\"SESSION_GRANT\", resource);";
    std::fs::write(policies.join("grants.cedar"), policy).unwrap();
    let config = folder.path().join("countersign.toml");
    for (consent, code) in [(false, 1), (true, 0)] {
        std::fs::write(&config, format!("[grants]\nconsent = {consent}\n")).unwrap();
        let told = run(["policy", "check", policies.to_str().unwrap(), "--config", config.to_str().unwrap()]);
        assert_eq!(told.code, code, "{consent}: {}", told.stderr);
        let schema = run(["policy", "schema", "--config", config.to_str().unwrap()]);
        assert_eq!(schema.code, 0, "{}", schema.stderr);
        assert_eq!(schema.stdout.contains("SESSION_GRANT"), consent, "what can be checked is in the schema");
    }
}

#[test]
fn a_binding_is_checked_as_the_gateway_would_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = folder.path().join("catalogue/default");
    std::fs::create_dir_all(&tenant).unwrap();
    let archetype = "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\n[binding]\nprovider = \"http\"\n\
                     base = \"https://bank.example\"\nheaders = { Authorization = { \"$secret\" = \"bank\" } }\n\
                     [binding.act]\npath = \"/pay\"\nsuccess = { status = [200] }\n";
    std::fs::write(tenant.join("payment.toml"), archetype).unwrap();
    let catalogue = folder.path().join("catalogue").display().to_string();
    let undeclared = run(["catalog", "check", &catalogue]);
    assert_eq!(undeclared.code, 1);
    assert!(undeclared.says("payment.toml:6:"), "{}", undeclared.stderr);

    // Declared is enough: a checker need not hold the secret.
    let config = folder.path().join("countersign.toml");
    std::fs::write(&config, "[secrets.bank]\nenv = \"NO_SUCH_VARIABLE\"\nhosts = [\"bank.example\"]\n")
        .unwrap();
    let declared = run(["catalog", "check", &catalogue, "--config", config.to_str().unwrap()]);
    assert_eq!(declared.code, 0, "{}", declared.stderr);
    assert!(declared.stdout.contains("PAYMENT_TRANSFER"), "{}", declared.stdout);
}

#[test]
fn what_authenticates_a_binding_is_checked_without_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = folder.path().join("catalogue/default");
    std::fs::create_dir_all(&tenant).unwrap();
    let bound = |auth: &str| {
        let text = format!(
            "name = \"PAYMENT_TRANSFER\"\nextends = \"builtin\"\n[binding]\nprovider = \"http\"\n\
             base = \"https://bank.example\"\nauth = {auth}\n[binding.act]\npath = \"/pay\"\n\
             success = {{ status = [200] }}\n"
        );
        std::fs::write(tenant.join("payment.toml"), text).unwrap();
    };
    let catalogue = folder.path().join("catalogue").display().to_string();
    let config = folder.path().join("countersign.toml");
    let config = config.to_str().unwrap();
    let declare = |text: &str| std::fs::write(config, text).unwrap();
    let check = || run(["catalog", "check", &catalogue, "--config", config]);
    declare(
        r#"
[secrets.token]
kind = "oauth2"
token_url = "https://id.example/token"
client_id = "gateway"
client_secret = { env = "NO_SUCH_VARIABLE" }
hosts = ["bank.example"]
[secrets.certificate]
kind = "mtls"
certificate = "/no/such/file"
key = "/no/such/file"
hosts = ["bank.example"]
[secrets.cloud]
kind = "aws-sigv4"
access_key = { env = "NO_SUCH_VARIABLE" }
secret_key = { file = "/no/such/file" }
region = "eu-central-1"
service = "execute-api"
hosts = ["api.example"]
[secrets.plain]
env = "NO_SUCH_VARIABLE"
hosts = ["bank.example"]
"#,
    );
    for auth in ["\"token\"", "\"certificate\"", "[\"token\", \"certificate\"]"] {
        bound(auth);
        assert_eq!(check().code, 0, "{auth}");
    }
    for (auth, expected) in [
        ("\"nobody\"", "no secret `nobody`"),
        ("\"plain\"", "put it into `headers`"),
        ("\"cloud\"", "may not be sent to `bank.example:443`"),
        ("[\"token\", \"token\"]", "second secret of its kind"),
    ] {
        bound(auth);
        let told = check();
        assert_eq!(told.code, 1, "{auth}");
        assert!(told.says("payment.toml:6:") && told.says(expected), "{auth}: {}", told.stderr);
    }
    bound("\"token\"");
    declare("[secrets.token]\nkind = \"oauth2\"\nclient_id = \"gateway\"\nhosts = [\"bank.example\"]\n");
    let told = check();
    assert!(told.code != 0 && told.says("`token`") && told.says("token_url"), "{}", told.stderr);
}

#[test]
fn every_template_is_a_policy_that_checks() {
    let folder = tempfile::tempdir().unwrap();
    let listed = run(["policy", "templates"]).stdout;
    let names: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names.len(), 10, "{listed}");
    for name in names {
        let printed = run(["policy", "templates", name]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        std::fs::write(folder.path().join(format!("{name}.cedar")), printed.stdout).unwrap();
    }
    let told = run(["policy", "check", folder.path().to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn what_the_documentation_shows_checks() {
    let folder = tempfile::tempdir().unwrap();
    for inner in ["catalogue", "policies"] {
        std::fs::create_dir(folder.path().join(inner)).unwrap();
    }
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (bound, config): (Vec<_>, Vec<_>) =
        blocks("operations.md", "toml").into_iter().partition(|block| block.starts_with("# catalogue/"));
    // The secrets that only the examples of the catalogue have.
    let archive = "[secrets.archive]\nenv = \"ARCHIVE_KEY\"\nhosts = [\"archive.example\"]\n";
    let config = write("countersign.toml", [&config.join("\n"), archive].join("\n"));
    let of_tool = |block: &String| block.contains("input_schema") || block.contains("provider = \"mcp\"");
    let (tool, own): (Vec<_>, Vec<_>) = blocks("catalogue.md", "toml").into_iter().partition(of_tool);
    let [tool, binding] = &tool[..] else { panic!("{tool:?}") };
    write("catalogue/tool.toml", [tool.as_str(), binding].join("\n"));
    let own = own.join("\n");
    let files: Vec<&str> = own.split("name = \"DATA_DELETE\"").collect();
    let [refund, deletion] = files[..] else { panic!("two archetypes: {files:?}") };
    write("catalogue/refund.toml", refund.to_owned());
    write("catalogue/deletion.toml", format!("name = \"DATA_DELETE\"{deletion}"));
    let catalogue = folder.path().join("catalogue").display().to_string();
    let check = || run(["catalog", "check", &catalogue, "--config", &config]);
    let told = check();
    assert_eq!(told.code, 0, "{}", told.stderr);
    for name in ["REFUND", "DATA_DELETE", "mcp/git/git_commit"] {
        assert!(told.stdout.contains(name), "{}", told.stdout);
    }

    // One example of a binding, and a line for each kind of credential.
    let [bound] = &bound[..] else { panic!("{bound:?}") };
    let kinds = cells("operations.md", "auth = \"").chain(cells("operations.md", "headers = {"));
    let mut seen = 0;
    for line in kinds {
        let text = bound.replacen("auth = \"bank-oauth\"", &line, 1);
        assert!(text.contains(&line), "{text}");
        write("catalogue/payment.toml", text);
        let told = check();
        assert_eq!(told.code, 0, "{line}: {}", told.stderr);
        assert!(told.stdout.contains("PAYMENT_TRANSFER"), "{}", told.stdout);
        seen += 1;
    }
    assert_eq!(seen, 4);

    write("policies/example.cedar", blocks("policies.md", "cedar").join("\n"));
    write("policies/entities.json", blocks("policies.md", "json").join("\n"));
    let policies = folder.path().join("policies").display().to_string();
    let told = run(["policy", "check", &policies]);
    assert_eq!(told.code, 0, "{}", told.stderr);
}

/// All blocks of one language in a page of docs/.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let inner = |rest: &str| rest.split("```").next().unwrap().to_owned();
    shown(page).split(&fence).skip(1).map(inner).collect()
}

/// The code in the last cells of a page's tables that begins like this.
fn cells(page: &str, begin: &str) -> impl Iterator<Item = String> {
    let begin = format!("| `{begin}");
    let page = shown(page);
    let cells: Vec<String> =
        page.lines().filter_map(|line| Some(line[line.rfind(&begin)?..].to_owned())).collect();
    cells.into_iter().map(|cell| cell.trim_matches(['|', ' ', '`']).to_owned())
}

fn shown(page: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    std::fs::read_to_string(page).unwrap()
}

#[test]
fn the_address_of_a_store_is_not_shown_where_it_is_none() {
    let wrong = "mysql://me:hush@db/countersign";
    for args in [&["store", "copy", "--from", "sqlite:data", "--to", wrong][..], &["serve", "--store", wrong]]
    {
        let told = run(args);
        assert!(told.code == 64 && told.says("postgres://"), "{}{}", told.code, told.stderr);
        assert!(!told.stderr.contains("hush"), "{}", told.stderr);
    }
}

#[test]
fn a_wrong_name_says_what_to_do() {
    let told = run(["policy", "templates", "no-such"]);
    assert_eq!(told.code, 1);
    assert!(told.says("`countersign policy templates`"), "{}", told.stderr);
    assert_eq!(run(["policy", "check", "/no/such/folder"]).code, 1);
    assert_eq!(run(["no-such-command"]).code, 64);
    assert_eq!(run(["--help"]).code, 0);
}
