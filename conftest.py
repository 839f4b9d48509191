# The doors at the top of the repository are links into the package: collecting through them would import it twice.
collect_ignore = ["losses", "estimators", "portfolios"]
