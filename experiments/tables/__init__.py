"""Tables, figures and the report, made of the JSON records in a folder of results.

reading.py    which files are records        rows.py        training runs in comparable rows
table.py      a table, Markdown and LaTeX    accuracy.py    tables of training runs
formulas.py   what MoLe costs, and tests     measured.py    tables of the experiments' records
marks.py      numbers and tables in a page   published.py   every published figure
figures.py    one picture a function         claims.py      REPRODUCTION.md and its verdicts
"""
