"""What patches have in common and where their neurons lie: numbers, tables and figures."""
