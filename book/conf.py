"The web book: notebooks as they were executed, glossary, and the library's reference. scripts/build_book.py builds it"
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))

project, author, copyright = 'marlearn', 'the marlearn authors', 'the marlearn authors, Apache-2.0'
extensions = ['myst_nb', 'mathml']
nb_execution_mode = 'off'                       # what readers see is what the lessons stored
nb_merge_streams = True
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
suppress_warnings = ['myst.header']             # lessons may go from a title to a smaller heading
html_math_renderer = 'mathml'
html_theme, html_title = 'sphinx_book_theme', 'marlearn'
html_static_path, html_css_files = ['_static'], ['book.css']
html_theme_options = {'use_download_button': False, 'use_fullscreen_button': False, 'show_toc_level': 2,
                      'show_navbar_depth': 1, 'home_page_in_toc': False}
html_context, html_favicon = {'default_mode': 'auto'}, '_static/favicon.svg'
html_show_sourcelink = html_copy_source = False
