"""Tables, figures and the report, made of the JSON records in a folder of results.

reading.py    which files are records        rows.py        training runs in comparable rows
table.py      a table, Markdown and LaTeX    accuracy.py    tables of training runs
formulas.py   what MoLe costs                equality.py    Aug-Conv against its fair partner
marks.py      numbers and tables in a page   measured.py    tables of the experiments' records
figures.py    one picture a function         augmentation.py  training and features with it
                                             published.py   every published figure
                                             claims.py      REPRODUCTION.md and its verdicts
"""
